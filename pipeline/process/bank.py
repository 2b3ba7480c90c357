"""The supervisor's side of the limits that all shards have in common: holds them, and lends them out in portions."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from config.schema import AnyWorker, Config, KeySection
from pipeline.policy.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from pipeline.policy.leases import parts
from pipeline.policy.leases_account import Count, Lending
from pipeline.policy.leases_credit import Answer
from pipeline.policy.leases_limit import LoadSeen
from pipeline.policy.leases_pool import Pool
from pipeline.policy.limits import TokenBucket, per_minute
from pipeline.process.link import AccountGrant, AccountReport, Grant, PoolGrant, PoolReport, Report
from pipeline.wiring.parts import another_model

INTERVAL = 0.02  # seconds between two ticks
_LOOKED_AT = 64  # accounts a tick, whether they can be forgotten


class _Post:
    """What is to be sent to one process."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolGrant] = {}
        self.accounts: dict[str, AccountGrant] = {}


class Bank:
    """Seats are those of the processes (`process.counters`), from `joined` to `gone`. `send` takes a grant to one, in
    order and without loss while it lives. Times are seconds of a clock that all processes share.

    Only accounts that are used are remembered, however many keys there are.
    """

    def __init__(self, config: Config, now: float, send: Callable[[int, Grant], None]) -> None:
        self._send = send
        self._numbers: dict[int, int] = {}  # of each seat's next grant
        self._pools: dict[str, Pool] = {}
        self._awake: dict[str, Pool] = {}  # those to be looked at
        self._accounts: OrderedDict[str, Lending] = OrderedDict()
        self._waiting: dict[str, None] = {}  # accounts of which somebody is to be answered later
        self._posts: dict[int, _Post] = {}
        self._workers: dict[str, AnyWorker] = {}
        self._keys: dict[str, KeySection] = {}
        self.configure(config, now)

    def joined(self, seat: int, shard: int, now: float) -> None:  # noqa: ARG002 - whatever its name
        """A process is there, and has nothing yet."""
        self._numbers[seat] = 1
        for pool in self._pools.values():
            pool.join(seat)
        self._awake.update(self._pools)
        self.tick(now)

    def gone(self, seat: int, now: float) -> None:
        """It is dead: what it held is free, apart from what it may have used."""
        if self._numbers.pop(seat, None) is None:
            return
        self._posts.pop(seat, None)
        for pool in self._pools.values():
            pool.leave(seat)
        self._awake.update(self._pools)
        for name, account in self._accounts.items():
            account.gone(seat, now)
            if account.waits:
                self._waiting[name] = None
        self.tick(now)

    def report(self, seat: int, report: Report, now: float) -> None:
        if seat not in self._numbers:
            return
        for name, told in report.pools.items():
            self._heard_of_pool(seat, name, told, report.seen, now)
        for name, account in report.accounts.items():
            self._heard_of_account(seat, name, account, report.seen, now)
        self._flush()

    def tick(self, now: float) -> None:
        """Every `INTERVAL`, or more often."""
        for name, pool in list(self._awake.items()):
            if pool.tick(now):
                self._post_leases(name, pool)
            if not pool.awake:
                del self._awake[name]
        for name in list(self._waiting):
            self._post_answers(name, self._accounts[name], now, ticking=True)
        self._forget(now)
        self._flush()

    def configure(self, config: Config, now: float) -> None:
        """Other limits from now on, to be called before the shards have them. A worker that is gone keeps its limits:
        its last calls may still wait for a place."""
        for section in config.workers:
            limiter, pool = self._limiter(section, config), self._pools.get(section.name)
            if pool is not None:
                pool.renew(limiter)
            else:
                pool = self._pools[section.name] = Pool(limiter, now)
                for seat in self._numbers:
                    pool.join(seat)
            self._awake[section.name] = pool
        self._workers.update({section.name: section for section in config.workers})
        self._keys = {section.name: section for section in config.keys}
        for name in list(self._accounts):
            self._renew(name, self._accounts[name], now)
        self.tick(now)

    def limit(self, worker: str) -> int:
        """Calls that all shards together may have under way."""
        return self._pools[worker].limiter.limit

    def most(self, worker: str) -> int:
        """Calls that they may have under way for all that is known: more than the limit while one has just fallen."""
        return self._pools[worker].most

    def lent(self, account: str) -> float:
        """What shards have of it and have not reported as used."""
        known = self._accounts.get(account)
        return 0.0 if known is None else known.lent

    @property
    def accounts(self) -> int:
        """That are remembered."""
        return len(self._accounts)

    def _limiter(self, section: AnyWorker, config: Config) -> ConcurrencyLimit:
        """The one that there is, where it is of the same kind and the worker is the same."""
        stage = config.stages.inference
        limit = stage.concurrency if section.concurrency is None else section.concurrency
        pool, before = self._pools.get(section.name), self._workers.get(section.name)
        known = pool.limiter if pool is not None else None
        if limit == "adaptive":
            if isinstance(known, AdaptiveLimit) and not (before is not None and another_model(before, section)):
                known.retune(stage.max_concurrency)
                return known
            return AdaptiveLimit(stage.max_concurrency)
        if isinstance(known, FixedLimit):
            known.retune(limit)
            return known
        return FixedLimit(limit)

    def _heard_of_pool(self, seat: int, name: str, told: PoolReport, seen: int, now: float) -> None:
        pool = self._pools.get(name)
        if pool is None:
            return
        pool.report(seat, LoadSeen(told.waiting, told.running, told.flows), told.held, told.oldest, seen)
        if told.samples or told.pushed_back:
            pool.heard(seat, told.samples, told.pushed_back, now)
        self._awake[name] = pool
        if pool.idles:
            pool.divide(now)
            self._post_leases(name, pool)
        elif pool.owes:
            self._post_leases(name, pool)

    def _heard_of_account(self, seat: int, name: str, told: AccountReport, seen: int, now: float) -> None:
        account = self._account(name, now)
        if account is None:
            if told.wanted:
                self._post(seat).accounts[name] = AccountGrant(0.0, 0.0, recall=False, parties=1)
            return
        account.returned(seat, told.used, told.returned, now)
        account.answered(seat, seen)
        account.wish(seat, told.working, seen)
        if told.wanted:
            account.ask(seat, told.wanted, now)
        self._post_answers(name, account, now)

    def _post_leases(self, name: str, pool: Pool) -> None:
        for seat, lease in pool.grants(self._numbers).items():
            self._post(seat).pools[name] = PoolGrant(*lease)

    def _post_answers(self, name: str, account: Lending, now: float, *, ticking: bool = False) -> None:
        self._post_all(name, account.answers(self._numbers, now, ticking=ticking))
        if account.waits:
            self._waiting[name] = None
        else:
            self._waiting.pop(name, None)

    def _post_all(self, name: str, answers: dict[int, Answer]) -> None:
        for seat, answer in answers.items():
            if seat in self._numbers:
                before = self._post(seat).accounts.get(name)
                amount = answer.amount + (before.amount if before is not None else 0.0)
                recall = answer.recall or (before is not None and before.recall)
                self._post(seat).accounts[name] = AccountGrant(amount, answer.level, recall, answer.parties)

    def _post(self, seat: int) -> _Post:
        return self._posts.setdefault(seat, _Post())

    def _flush(self) -> None:
        posts, self._posts = self._posts, {}
        for seat, post in posts.items():
            number = self._numbers[seat]
            self._numbers[seat] = number + 1
            self._send(seat, Grant(number, post.pools, post.accounts))

    def _account(self, name: str, now: float) -> Lending | None:
        """None: there is no such limit."""
        account = self._accounts.get(name)
        if account is None and (number := self._number(name)) is not None:
            kind, _, unit = parts(name)
            stock = Count(number) if unit == "places" else TokenBucket(*per_minute(number), now)
            account = self._accounts[name] = Lending(stock, whole=unit != "tokens", standing=kind == "worker")
        return account

    def _number(self, name: str) -> int | None:
        kind, owner, unit = parts(name)
        section: Any = (self._workers if kind == "worker" else self._keys).get(owner)
        if section is None:
            return None
        number: int | None = getattr(section, "concurrency" if unit == "places" else f"{unit}_per_minute")
        return number

    def _renew(self, name: str, account: Lending, now: float) -> None:
        number = self._number(name)
        if number is None:
            del self._accounts[name]
            self._waiting.pop(name, None)
        elif isinstance(account.stock, TokenBucket):
            account.stock.retune(*per_minute(number), now)
        else:
            account.stock.number = number
            self._post_all(name, account.shrink(now))

    def _forget(self, now: float) -> None:
        """Accounts of which nobody has used anything for so long that they are as new."""
        for _ in range(min(_LOOKED_AT, len(self._accounts))):
            name, account = self._accounts.popitem(last=False)
            if not account.unused(now):
                self._accounts[name] = account
