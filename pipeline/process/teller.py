"""A shard's side of the limits that all shards have in common: tells what it uses, and fetches what it lacks."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from pipeline.policy.leases import Leases
from pipeline.policy.leases_credit import Answer, Credit
from pipeline.policy.leases_limit import LeasedLimit
from pipeline.policy.limits import KeyQuota
from pipeline.process.link import AccountReport, Grant, PoolReport, Report

INTERVAL = 0.02  # seconds between two ticks
QUIET_TICKS = 100  # two seconds: what is remembered of sessions and unused credit has been told by then
PATIENCE = 0.1  # seconds that a request waits for what its key lacks here


class Work(Protocol):
    """What a shard has to do."""

    def when_there_is(self, callback: Callable[[], None]) -> None:
        """`callback` is called once, when the next request comes to be served here, or one that is here ends."""
        ...


class Teller:
    """`send` takes reports to the supervisor, in order and without loss. `on_grant` is called when calls may start that
    could not before."""

    def __init__(
        self,
        leases: Leases,
        send: Callable[[Report], None],
        *,
        on_grant: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._send = send
        self._on_grant = on_grant
        self._clock = clock
        self._seen = 0
        self.waiting: dict[str, dict[asyncio.Future[None], None]] = {}  # requests, by the account that they lack
        leases.register.lender = self

    def tick(self, now: float) -> bool:
        """Every `INTERVAL`. False: nothing has changed since the last one."""
        pools: dict[str, PoolReport] = {}
        for name, limit in self._leases.limits.items():
            limit.urgent = self._urgent
            limit.ticked()
            report = _pool_report(limit, now)
            if report is not None:
                pools[name] = report
        accounts: dict[str, AccountReport] = {}
        for name, account in list(self._leases.register.active.items()):
            news = account.news(now)
            if any(news):
                accounts[name] = AccountReport(*news, wanted=0.0)
        if not (pools or accounts):
            return False
        self._send(Report(self._seen, pools, accounts))
        return True

    async def run(self, work: Work) -> None:
        """Ticks until cancelled; where nothing has changed for a while, only again when there is work."""
        quiet = 0
        while True:
            quiet = 0 if self.tick(self._clock()) else quiet + 1
            if quiet < QUIET_TICKS:
                await asyncio.sleep(INTERVAL)
                continue
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            work.when_there_is(partial(_resolve, [woken]))
            await woken
            quiet = 0

    def granted(self, grant: Grant, now: float) -> None:
        """From the supervisor. What it takes away or asks back is confirmed at once: somebody waits for it."""
        self._seen = grant.number
        more, hurry = False, False
        for name, pool in grant.pools.items():
            limit = self._leases.limit(name)
            before = limit.limit
            more = limit.granted(pool.limit, pool.total, pool.shares, now, wanted=pool.wanted) or more
            hurry = hurry or limit.limit < max(before, pool.limit)
        recalled: dict[str, AccountReport] = {}
        for name, told in grant.accounts.items():
            account = self._leases.account(name)
            if account is None:
                recalled[name] = AccountReport(0.0, told.amount, 0.0, 0.0)
                continue
            answer = Answer(told.amount, told.level, told.recall, told.parties)
            got = account.granted(answer, now)
            more = more or (got and isinstance(account, Credit) and account.pool is not None)
            if told.recall or told.amount < 0.0:
                recalled[name] = AccountReport(*account.news(now, recalled=True), wanted=0.0)
            if got or not told.recall:
                self._wake(name)
        if hurry or recalled:
            self._send(Report(self._seen, self._pools() if hurry else {}, recalled))
        if more:
            self._on_grant()

    async def borrow(self, quota: KeyQuota, tokens: int) -> None:
        """See `Lender.borrow`. Safe to cancel."""
        deadline = self._clock() + PATIENCE
        while (now := self._clock()) < deadline and (missing := quota.missing(tokens, now)):
            loop = asyncio.get_running_loop()
            answers = [(name, loop.create_future()) for name, _ in missing]
            for name, future in answers:
                self.waiting.setdefault(name, {})[future] = None
            timer = loop.call_later(deadline - now, _resolve, [future for _, future in answers])
            try:
                self._ask(missing)
                for _, future in answers:
                    await future
            finally:
                timer.cancel()
                self._forget(answers)

    def _ask(self, missing: Sequence[tuple[str, float]]) -> None:
        reports: dict[str, AccountReport] = {}
        for name, amount in missing:
            account = self._leases.account(name)
            if account is not None:
                reports[name] = AccountReport(*account.news_at_once(), wanted=amount)
        self._send(Report(self._seen, {}, reports))

    def _forget(self, answers: "list[tuple[str, asyncio.Future[None]]]") -> None:
        for name, future in answers:
            waiting = self.waiting.get(name, {})
            waiting.pop(future, None)
            if not waiting:
                self.waiting.pop(name, None)

    def _wake(self, name: str) -> None:
        _resolve(list(self.waiting.pop(name, {})))

    def _urgent(self) -> None:
        pools = self._pools()
        if pools:
            self._send(Report(self._seen, pools, {}))

    def _pools(self) -> dict[str, PoolReport]:
        now = self._clock()
        reports = {name: _pool_report(limit, now) for name, limit in self._leases.limits.items()}
        return {name: report for name, report in reports.items() if report is not None}


def _pool_report(limit: LeasedLimit, now: float) -> PoolReport | None:
    load = limit.news(now)
    if load is None:
        return None
    samples, pushed_back = limit.heard()
    return PoolReport(*load, limit.held, samples, pushed_back, limit.oldest)


def _resolve(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
