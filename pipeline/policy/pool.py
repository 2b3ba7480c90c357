"""Which replica of a worker gets a call.

A session has its own order of the replicas (rendezvous hashing, `choice.scores`), so that the first one's prefix cache
knows it. A call goes to the first of them that may be called, has room, and has not much more to do than the others:
the bounded loads of Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016), at 1.25 times
the mean, plus one. Without a session, or without affinity, and where none is below that bound, it goes where the wait
is expected to be the least: by the calls under way and what one takes there.

A replica is left out while its circuit is open, and while the last look at it failed although no call had an answer
from it meanwhile; but looks alone never leave out the last ones. What comes back gets a tenth of its share at first,
then more, until the whole after `slow_start` seconds.

Whoever refuses at once has the fewest calls under way, and would get them all. So a replica that pushes back, or that
refuses what others answer, is left alone for a while wherever another one takes its calls.
"""

import enum
from collections.abc import Callable, Collection, Sequence
from math import exp2, inf

from pipeline.policy.breaker import BreakerState
from pipeline.policy.choice import scores
from pipeline.policy.replica import UNBOUNDED, PoolRules, Replica

__all__ = ["Attempt", "Pool", "PoolRules", "Replica", "Result"]

_CROWDED = 1.25  # times the mean load, plus one, rounded up: with so many calls, a session goes elsewhere
_EQUAL = 1.1  # expected waits that differ by less are the same: the one that has not been used for longest
_NEWEST = 0.05  # the weight of the newest call in the pool's average
_FIRST_TIME = 1.0  # seconds of a call, while none has ended
_PERCHANCE = 2.0**-32
_SILENT = 2  # looks in a row: one may have met a server that was busy
_REFUSALS = 3  # requests in a row that one finds at fault while the others answer
_TOGETHER = 0.05  # seconds: callers who leave within them are one, who takes all its calls along
_REMEMBERED = 20.0  # seconds in which the longest time to a first delta loses half its weight


_CLOSED = BreakerState.CLOSED


class Result(enum.Enum):
    """How a call ended, as far as it says something of the replica."""

    OK = enum.auto()
    FAULT = enum.auto()
    REFUSED = enum.auto()  # the backend is well: the request is at fault
    PUSHED_BACK = enum.auto()  # it has too much to do, or we have used up our quota
    ABANDONED = enum.auto()  # by the caller
    LEFT = enum.auto()  # so too, after a time without a first delta that is unusual here


class Attempt:
    """One call on one replica, from `Pool.choose` to `Pool.ended`."""

    __slots__ = ("began", "over", "replica", "token")

    def __init__(self, replica: Replica, token: int, began: float) -> None:
        self.replica = replica
        self.token = token
        self.began = began
        self.over = False

    @property
    def index(self) -> int:
        return self.replica.index


class Pool:
    """The replicas of one worker, of which there is one at least. `names` are theirs, each once; by them sessions are
    placed. `on_change` is called when `capacity` or `wait` may have changed otherwise than by time passing, and
    `on_circuit` with a replica whose circuit opened or closed, and `on_down` with one that, by looks and calls, has not
    said a word for some time: what it was asked last is better asked elsewhere.

    `retries` and `fallbacks` are counted by whoever makes the calls.
    """

    def __init__(self, names: Sequence[str], rules: PoolRules) -> None:
        self.on_change: Callable[[], None] = _nothing
        self.on_circuit: Callable[[Replica], None] = _ignored
        self.on_down: Callable[[Replica], None] = _ignored
        self.retries = 0
        self.fallbacks = 0  # calls that came here because another worker failed
        self.replicas: list[Replica] = []
        self._made = 0
        self._typical = 0.0
        self._longest = 0.0  # seconds until a first delta,
        self._longest_at = 0.0  # and when that was
        self.renew(names, rules)

    def renew(self, names: Sequence[str], rules: PoolRules) -> None:
        """Other replicas or rules from now on. Those whose name stays go on as they are; calls under way on others
        still end here. Raises ValueError without a name."""
        if not names:
            raise ValueError("a pool needs a replica")
        before = {replica.name: replica for replica in self.replicas}
        self.rules = rules
        self.replicas = []
        for index, name in enumerate(names):
            replica = before.pop(name, None) or Replica(index, name, rules)
            replica.renew(index, rules)
            self.replicas.append(replica)
        self._only = self.replicas[0] if len(names) == 1 else None
        self._seeds = [replica.seed for replica in self.replicas]
        self.on_change()

    # What is free.

    def wait(self, now: float) -> float:
        """Seconds until any of them may be called; 0.0: now, though it may be full."""
        least = inf
        for replica in self.replicas:
            wait = replica.breaker.wait(now)
            if wait == 0.0:
                return 0.0
            least = min(least, wait)
        return least

    def capacity(self, now: float) -> int:
        """The most calls that all that may be called can have together; `sys.maxsize` where there is no bound. One
        whose circuit is not closed may have one."""
        total = 0
        for replica in self._usable(now):
            total += replica.bound if replica.breaker.state is _CLOSED else 1
        return min(total, UNBOUNDED)

    # Calls.

    def choose(self, session: str | None, now: float, avoid: Collection[int] = ()) -> Attempt | None:
        """Books a call on a replica. None: none may be called now, or all that may are full.

        `avoid` are those (by index) that the request has tried: one of them gets it again only when no other can take
        it. The same goes for those that asked to be left alone for a time.
        """
        replica = self._only
        if replica is None:
            replica = self._pick(session, now, avoid)
            if replica is None:
                return None
        elif replica.inflight >= replica.bound or replica.breaker.wait(now) > 0.0:
            return None
        replica.inflight += 1
        replica.calls += 1
        self._made = replica.used = self._made + 1
        breaker = replica.breaker
        if breaker.state is _CLOSED:
            return Attempt(replica, breaker.begin(now), now)
        probe = Attempt(replica, breaker.begin(now), now)
        self.on_change()
        return probe

    def answered(self, attempt: Attempt, now: float) -> None:
        """The call's first delta is there."""
        replica = attempt.replica
        replica.answered(now)
        if now - attempt.began > self._longest:
            self._longest, self._longest_at = now - attempt.began, now
        if replica.breaker.state is not _CLOSED:
            replica.breaker.answered(attempt.token, now)
            self._look_closed(replica, now)

    def ended(self, attempt: Attempt, now: float, result: Result, hold: float | None = None) -> None:
        """The call is over, however. `hold` is for how many seconds the backend wants no more calls. Once for each
        attempt; what comes later is not counted."""
        if attempt.over:
            return
        attempt.over = True
        replica = attempt.replica
        replica.inflight -= 1
        if result is Result.OK:
            replica.left = 0
            self._succeeded(attempt, now)
            if self._only is None:
                self._learn(replica, now - attempt.began, now)
            return
        if result is Result.PUSHED_BACK:
            replica.hold(hold or None, attempt.began, now)
        elif hold is not None:
            replica.hold(hold, attempt.began, now)
        self._fell_short(attempt, now, result)

    def another(self, tried: Collection[Replica], now: float, *, free: bool = True) -> bool:
        """Whether a replica that is not one of these may be called, looks well and did not ask to be left alone; and
        has room, where it is to be `free`."""
        return any(
            replica not in tried
            and replica.healthy
            and replica.held_until <= now
            and replica.breaker.wait(now) <= 0.0
            and (replica.inflight < replica.bound or not free)
            for replica in self.replicas
        )

    def longest(self, now: float) -> float:
        """Seconds that a call has waited for its first delta and has got it, the most of late: less and less, as that
        becomes long ago."""
        return self._longest * exp2((self._longest_at - now) / _REMEMBERED) if now > self._longest_at else self._longest

    def looked(self, index: int, ok: bool, now: float, slots: int | None = None) -> None:  # noqa: FBT001
        """The result of an active check, with how many calls the replica works on at once where it told."""
        replica = self.replicas[index]
        healthy = ok or replica.well
        replica.well = False
        changed = healthy != replica.healthy
        if changed and healthy:
            replica.back(now)
        replica.healthy = healthy
        replica.misses = 0 if healthy else replica.misses + 1
        if replica.misses >= _SILENT:
            self.on_down(replica)
        if slots is not None and slots != replica.slots:
            replica.slots = slots
            replica.renew(index, self.rules)
            changed = True
        if changed:
            self.on_change()

    def _succeeded(self, attempt: Attempt, now: float) -> None:
        breaker = attempt.replica.breaker
        closed = breaker.state is _CLOSED
        breaker.succeeded(attempt.token, now)
        if not closed:
            self._look_closed(attempt.replica, now)

    def _fell_short(self, attempt: Attempt, now: float, result: Result) -> None:
        replica, breaker = attempt.replica, attempt.replica.breaker
        match result:
            case Result.FAULT:
                replica.failures += 1
                self._look_opened(replica, opened=breaker.failed(attempt.token, now))
            case Result.PUSHED_BACK:  # of a probe that is no answer, else it says nothing of the circuit
                if breaker.state is not _CLOSED:
                    self._look_opened(replica, opened=breaker.failed(attempt.token, now))
            case Result.LEFT if self._hangs(replica, now):
                replica.failures += 1
                self._look_opened(replica, opened=breaker.condemned(attempt.token, now))
            case Result.LEFT | Result.ABANDONED:
                breaker.abandoned(attempt.token)
                if breaker.state is not _CLOSED:
                    self.on_change()
            case _:
                self._succeeded(attempt, now)
                self._refused(attempt, now)

    def _refused(self, attempt: Attempt, now: float) -> None:
        """A request was at fault, says the replica: perhaps it is the replica that is."""
        replica = attempt.replica
        replica.refusals += 1
        if replica.refusals == 1:
            replica.refused_at = now
        if replica.refusals >= _REFUSALS and any(
            other is not replica and other.answered_at >= replica.refused_at for other in self.replicas
        ):
            replica.hold(None, attempt.began, now)

    def _hangs(self, replica: Replica, now: float) -> bool:
        """Another caller has left after a long time. True: with that, it is no caller's haste any more."""
        if replica.breaker.state is not _CLOSED:
            return True  # a probe
        if now - replica.left_at >= _TOGETHER:
            replica.left_at = now
            replica.left += 1
        failures = self.rules.breaker.failures
        if not failures or replica.left < failures:
            return False
        replica.left = 0
        return True

    def _look_opened(self, replica: Replica, *, opened: bool) -> None:
        if opened:
            self.on_circuit(replica)
            self.on_change()

    def _look_closed(self, replica: Replica, now: float) -> None:
        if replica.breaker.state is _CLOSED:
            replica.back(now)
            self.on_circuit(replica)
            self.on_change()

    def _learn(self, replica: Replica, seconds: float, now: float) -> None:
        self._typical += _NEWEST * (seconds - self._typical) if self._typical else seconds
        replica.took(seconds, self._typical, now)

    # The choice.

    def _usable(self, now: float) -> list[Replica]:
        """Those whose circuit lets a call through; of them those that looked well, if any did."""
        called = [
            replica for replica in self.replicas if replica.breaker.state is _CLOSED or replica.breaker.wait(now) == 0.0
        ]
        return [replica for replica in called if replica.healthy] or called

    def _pick(self, session: str | None, now: float, avoid: Collection[int]) -> Replica | None:
        usable = self._usable(now)
        able = [replica for replica in usable if replica.inflight < replica.bound]
        if avoid:
            able = [replica for replica in able if replica.index not in avoid] or able
        able = [replica for replica in able if replica.held_until <= now] or able
        if not able:
            return None
        if session is not None and self.rules.affinity:
            preferred = self._preferred(session, now, usable, able)
            if preferred is not None:
                return preferred
        return self._quickest(able, now)

    def _preferred(self, session: str, now: float, usable: list[Replica], able: list[Replica]) -> Replica | None:
        """The first in the session's order that takes it."""
        slow_start = self.rules.slow_start
        own = scores(session, self._seeds)
        calls, shares = 1, 0.0
        for replica in usable:
            calls += replica.inflight
            shares += replica.weight(now, slow_start)
        crowded = _CROWDED * calls / shares
        for replica in sorted(able, key=lambda replica: own[replica.index], reverse=True):
            weight = replica.weight(now, slow_start)
            takes = (own[replica.index] & 0xFFFFFFFF) * _PERCHANCE < weight  # the same sessions, and more by and by
            if takes and replica.inflight < crowded * weight + 1.0:
                return replica
        return None

    def _quickest(self, able: list[Replica], now: float) -> Replica:
        if len(able) == 1:
            return able[0]
        slow_start = self.rules.slow_start
        typical = self._typical or _FIRST_TIME
        waits = [
            (replica.inflight + 1) * replica.pace(typical, now) / replica.weight(now, slow_start) for replica in able
        ]
        most = _EQUAL * min(waits)
        return min(
            [replica for replica, wait in zip(able, waits, strict=True) if wait <= most],
            key=lambda replica: replica.used,
        )


def _nothing() -> None: ...


def _ignored(_replica: Replica) -> None: ...
