"""One worker's lane: its places, its queue, and what is known of its pace. Decides who is let in, and who goes next."""

import enum
import sys
from collections.abc import Iterable
from math import exp, inf
from typing import Generic, NamedTuple, TypeVar

from pipeline.core.access import Caller
from pipeline.core.outcomes import Priority, Reason
from pipeline.policy.admission import (
    RETRY_AFTER_MAX,
    Allowance,
    allowance,
    estimated_wait,
    retry_after,
    standing_target,
    wait_budget,
)
from pipeline.policy.codel import CoDel
from pipeline.policy.concurrency import ConcurrencyLimit
from pipeline.policy.fair import FairQueue, Flow
from pipeline.policy.leases_limit import LeasedLimit
from pipeline.policy.limits import Bucket
from pipeline.policy.pool import Pool
from pipeline.policy.typical import Typical
from workers.base import Parameters

T = TypeVar("T")

_NOBODY = [0] * len(Priority)
_EVERYTHING = "-"  # the one caller, where callers are not told apart
TOLERANCE = 0.1  # seconds that a request may wait beyond its budget: what was estimated at the door was an estimate
UNKNOWN_DRAIN = 5.0  # seconds, while no call has ended yet
_SLOWED_MOST = 4.0  # times as long: with replicas lost, those who were let in before may wait
_QUICK = 0.02  # seconds of a call: what takes longer is worth the microseconds
_REFUSALS_REMEMBERED = 1.0  # seconds, of the count of those who were told to come back


class Rules(NamedTuple):
    """What acts. `wait_budget` off: only capacity counts; `usual_budget` is that of routes which set none, in seconds,
    None: as long as an answer takes. `codel_interval` in seconds, None: no CoDel. `fair` false: in
    order of arrival."""

    wait_budget: bool = True
    codel_interval: float | None = 0.2
    fair: bool = True
    usual_budget: float | None = None


class Asker(NamedTuple):
    """Who wants in. `session` None: not known yet, so that it may be one without any work."""

    priority: Priority
    caller: str
    weight: float
    session: str | None


class Verdict(enum.Enum):
    ADMIT = enum.auto()
    DISPLACE = enum.auto()  # admit, and shed `victim`
    REFUSE = enum.auto()


class Decision(NamedTuple, Generic[T]):
    """`wait` is what was estimated, `allowed` what may be waited; `reason` why it is refused or displaces the
    victim."""

    verdict: Verdict
    wait: float
    allowed: float
    reason: Reason
    victim: T | None = None


class Lane(Generic[T]):
    """`waiting` counts, by class, the requests that were admitted and have not started, wherever they are; those that
    have come to Inference wait in `queue`. `requests` and `tokens` bound what goes out a minute.

    Where the limit is leased, it may be zero for a while. What takes time is then reckoned with the class's share of
    the limit that all shards have in common: a lane with half a place on average serves at half a place's pace.
    """

    def __init__(
        self,
        name: str,
        limit: ConcurrencyLimit,
        rules: Rules,
        *,
        requests: Bucket | None = None,
        tokens: Bucket | None = None,
    ) -> None:
        self.name = name
        self.typical = Typical()
        self.queue: FairQueue[T] = FairQueue()
        self.waiting = [0] * len(Priority)
        self.inflight = 0
        self.unanswered = 0  # of them, those without a first delta
        self.pushed_back = 0  # answers 429 and 503
        self.pool: Pool | None = None  # the replicas behind it
        self.ceiling = sys.maxsize  # calls at once that these have room for, at least one
        self._before = 0  # calls at once before there was room for fewer,
        self._before_until = -inf  # while those who came then may still wait
        self.changes = 0  # of what is waiting and running: while it stays, a decision stays
        self._started = [0] * len(Priority)  # requests whose call has begun, until they end
        self._codel = [CoDel(inf) for _ in Priority]
        self._quick = 0
        self._refused = 0.0
        self._refused_at = 0.0
        self._since = -inf  # of what began before, nothing is learnt
        self.renew(limit, rules, requests=requests, tokens=tokens)

    def renew(
        self, limit: ConcurrencyLimit, rules: Rules, *, requests: Bucket | None = None, tokens: Bucket | None = None
    ) -> None:
        """Other limits and rules from now on. Who is in stays in."""
        self.limiter = limit
        self.rules = rules
        for codel in self._codel:
            codel.interval = rules.codel_interval or inf
        self._unmetered = requests is None and tokens is None
        self._requests = requests
        self._tokens = tokens
        self._lease = limit if isinstance(limit, LeasedLimit) else None
        if self._lease is not None:
            self._lease.lane = self
        self.changes += 1

    def forget(self, now: float) -> None:
        """The worker is another one: nothing is known of its pace, and the calls under way say nothing of it."""
        self.typical = Typical()
        self._since = now

    # What is known.

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.inflight and self.waiting == _NOBODY

    @property
    def limit(self) -> int:
        """Calls at once: what the worker may be asked, and what its replicas have room for now."""
        limit, ceiling = self.limiter.limit, self.ceiling
        return min(limit, ceiling)

    def share(self, priority: Priority) -> float:
        """Of the limit, in calls at once, that this class can count on."""
        limiter = self.limiter
        share = limiter.shares[priority]
        return share if limiter.limit <= self.ceiling else share * self.ceiling / limiter.limit

    def reopens(self, now: float) -> float:
        """Seconds until any replica may be called; 0.0: now."""
        return 0.0 if self.pool is None else self.pool.wait(now)

    def refit(self, now: float) -> None:
        """The replicas' room has changed, or may have with time. While none may be called, what waits is let through,
        to be told so at once."""
        if self.pool is None:
            return
        before = self.limit
        self.ceiling = self.pool.capacity(now) or sys.maxsize
        after = self.limit
        if after < before:
            self._before = max(before, self._before) if now < self._before_until else before
            self._before_until = now + min(_SLOWED_MOST * self.budget(None), RETRY_AFTER_MAX)

    @property
    def rate(self) -> float:
        """Requests a second that the worker takes from here, 0.0 while unknown."""
        hold = self.typical.hold
        return self.share(Priority.NORMAL) / hold if hold else 0.0

    @property
    def running(self) -> list[float]:
        """The calls under way by class. Of a class are as many as it has of the requests whose call has begun: some of
        these have their answer and not given it out yet."""
        started = sum(self._started)
        return [self.inflight * count / started if started else 0.0 for count in self._started]

    @property
    def standing(self) -> bool:
        return any(codel.standing for codel in self._codel)

    def estimated_wait(self, priority: Priority, now: float) -> float:
        """Seconds until a newcomer of this class would start: the work at or above it, at the worker's pace."""
        ahead = 0
        for waiting in self.waiting[: priority + 1]:
            ahead += waiting
        wait = estimated_wait(ahead, self.limit, self.inflight, self.typical.hold, self.share(priority))
        if self._requests is not None:
            wait = max(wait, self._requests.until(ahead + 1, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.until(1 + ahead * self.typical.tokens, now))
        return wait

    def budget(self, configured: float | None, priority: Priority = Priority.NORMAL) -> float:
        """Seconds that a request may wait, before CoDel and its deadline are looked at."""
        if not self.rules.wait_budget:
            return inf
        return wait_budget(configured, self.share(priority), self.typical.hold)

    def patience(self, configured: float | None, priority: Priority = Priority.NORMAL, now: float = inf) -> float:
        """Seconds after which a request that was let in is not to be served any more. Where shards take turns with a
        few places, the share may have been greater at the door than it is now, and even then was an average: twice the
        budget. Where replicas have been lost since, it is served that much later."""
        budget = self.budget(configured, priority) * self._slowed(now)
        return 2.0 * budget if self._lease is not None and self._lease.shared(priority) else budget

    def _slowed(self, now: float) -> float:
        if now >= self._before_until:
            return 1.0
        return min(max(self._before / self.limit, 1.0), _SLOWED_MOST)

    def allowed(self, priority: Priority, configured: float | None) -> float:
        budget = self.budget(configured, priority)
        return self._target(budget, priority) if self._codel[priority].standing else budget

    @property
    def idle(self) -> bool:
        """Whether there is a free place and nobody before a newcomer: nothing needs to be decided."""
        return self._unmetered and self.inflight < self.limit and self.waiting == _NOBODY

    @property
    def allowed_wait(self) -> float:
        """Seconds that a request of class normal and of a route without a budget of its own may wait now; 0.0 where
        there is no limit."""
        allowed = self.allowed(Priority.NORMAL, self.rules.usual_budget)
        return allowed if allowed < inf else 0.0

    # The door.

    def asker(self, caller: Caller, priority: Priority, session: str | None) -> Asker:
        """Who asks, as far as callers are told apart here."""
        if not self.rules.fair:
            return Asker(Priority.NORMAL, _EVERYTHING, 1.0, "")
        return Asker(priority, caller.name, caller.weight, session)

    def decide(
        self,
        asker: Asker,
        configured: float | None,
        deadline: float,
        answer: int | None,
        now: float,
        *,
        full: bool = False,
    ) -> Decision[T]:
        """Whether a newcomer gets in. `configured` is its route's wait budget, None for the usual one, `deadline` the
        seconds it has left, `answer` its limit of tokens; `full` says that there is no place left in the queue. Nothing
        is changed."""
        if self._lease is not None and asker.session is not None:
            self._lease.asked(asker.priority, asker.caller, asker.session, asker.weight, now)
        wait = self.estimated_wait(asker.priority, now)
        limit = self._allowance(asker.priority, configured, deadline, answer)
        if full:
            return self._instead_of(asker, wait, limit, reason=Reason.QUEUE_FULL, classes=reversed(Priority), now=now)
        if wait <= 0.0 or wait <= limit.seconds:
            return Decision(Verdict.ADMIT, wait, limit.seconds, limit.reason)
        if limit.reason is Reason.TOO_LATE:  # it would be too late in another's place as well
            return Decision(Verdict.REFUSE, wait, limit.seconds, limit.reason)
        return self._instead_of(asker, wait, limit, reason=limit.reason, classes=(asker.priority,), now=now)

    def refused(self, now: float) -> None:
        """Somebody was told to come back."""
        self._refused = self._refusals(now) + 1.0
        self._refused_at = now

    def drain(self, now: float) -> float:
        """Seconds until all who wait, and all who were told to come back within the last second, could be served."""
        if not self.rate:
            return UNKNOWN_DRAIN
        seconds = retry_after(sum(self.waiting) + self._refusals(now), self.rate)
        if self._unmetered:
            return seconds
        return min(max(seconds, self.estimated_wait(Priority.LOW, now)), RETRY_AFTER_MAX)

    # A request's way: admit, push, take, start, finish, leave.

    def admit(self, asker: Asker) -> Flow[T]:
        codel = self._codel[asker.priority]
        if self.inflight < self.limit and (self.waiting == _NOBODY or not any(self.waiting[: asker.priority + 1])):
            codel.emptied()
        self.waiting[asker.priority] += 1
        self.changes += 1
        flow = self.queue.join(asker.priority, asker.caller, asker.weight, asker.session or "")
        if self._lease is not None:
            self._lease.joined()
        return flow

    def leave(self, flow: Flow[T], priority: Priority, now: float, *, started: bool) -> None:
        """An admitted request has ended."""
        self.changes += 1
        self.queue.leave(flow, now, served=started)
        if started:
            self._started[priority] -= 1
        else:
            self.waiting[priority] -= 1

    def room(self, now: float) -> int:
        """How many calls may start now."""
        room = self.limit - self.inflight
        if room > 0 and self._requests is not None:
            room = min(room, _whole(self._requests.level(now)))
        if room > 0 and self._tokens is not None:
            level = self._tokens.level(now)
            room = min(room, _whole(level / max(self.typical.tokens, 1.0), least=level >= 1.0))
        return room

    def blocked(self, now: float) -> float:
        """Seconds until the quota of what goes out lets another call start."""
        wait = 0.0 if self._requests is None else self._requests.wait(1, now)
        return wait if self._tokens is None else max(wait, self._tokens.wait(1, now))

    def drops(self, priority: Priority, sojourn: float, configured: float | None, now: float) -> Reason | None:
        """Why a request that has waited `sojourn` seconds and is at its turn is not to be served; None: it is."""
        budget = self.budget(configured, priority)
        if sojourn > self.patience(configured, priority, now) + TOLERANCE:
            return Reason.OVERDUE
        if self.rules.codel_interval is None:
            return None
        codel = self._codel[priority]
        if sum(self.waiting[: priority + 1]) <= 1:  # it is the last
            codel.emptied()
            return None
        target = self._target(budget, priority) * self._slowed(now)
        return Reason.STANDING_QUEUE if codel.drops(sojourn, target, now) else None

    def waits_since(self) -> list[tuple[float, T]]:
        """What waits in the queue, each with the time it was put."""
        return self.queue.entries() if len(self.queue) else []

    def cost(self, prompt_tokens: int, parameters: Parameters) -> int:
        """Tokens that a call is expected to take from the quota; 0 where there is none."""
        if self._tokens is None:
            return 0
        return self.typical.cost(prompt_tokens, parameters.max_tokens) * parameters.n

    def start(self, priority: Priority, tokens: int, now: float) -> None:
        """A call with about so many tokens begins."""
        self.changes += 1
        self.waiting[priority] -= 1
        self._started[priority] += 1
        self.inflight += 1
        self.unanswered += 1
        if self._requests is not None:
            self._requests.take(1, now)
        if self._tokens is not None:
            self._tokens.take(self._charge(tokens), now)

    def ended(  # noqa: PLR0917 - once a request
        self, hold: float, first_delta: float | None, tokens: int, now: float, inflight: int, prompt: int
    ) -> None:
        """See `Typical.ended`."""
        if now - hold >= self._since and self._telling(inflight):
            self.typical.ended(hold, first_delta, tokens, now, inflight, prompt)

    def finish(self, estimated: int, used: int, now: float, *, answered: bool) -> None:
        """A call is over and its place free. `used` tokens take the place of the estimate; `answered` says that it had
        a first delta."""
        self.changes += 1
        self.inflight -= 1
        if self._lease is not None:
            self._lease.freed(self.inflight)
        if not answered:
            self.unanswered -= 1
        if self._tokens is not None:
            over = used - self._charge(estimated)
            if over < 0:
                self._tokens.give(-over, now)
            else:
                self._tokens.take(over, now)

    def _charge(self, estimated: int) -> float:
        """Nobody knows yet what it will be: no estimate closes the lane for longer than an idle one saves up."""
        return min(estimated, self._tokens.burst) if self._tokens is not None else 0.0

    def answered(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None:
        """A call's first delta came, `seconds` after it began as one of `inflight`."""
        self.unanswered -= 1
        if now - seconds >= self._since and self._telling(inflight):
            self.limiter.first_delta(seconds, prompt_tokens, inflight, now)

    def _telling(self, inflight: int) -> bool:
        """Quick calls far below the limit tell the same again and again: one in eight of them is listened to."""
        if inflight * 4 >= self.limiter.limit or self.typical.hold >= _QUICK or not self.typical.hold:
            return True
        self._quick += 1
        return not self._quick & 7

    def push_back(
        self, wait: float | None, inflight: int, now: float, began: float = inf, *, elsewhere: bool = False
    ) -> None:
        """The worker said that it is too much, to a call that began then, as one of `inflight`. `elsewhere`: only one
        of its replicas did, and another one takes more."""
        self.pushed_back += 1
        if began >= self._since and not elsewhere:
            self.limiter.pushed_back(wait, inflight, now)

    def tick(self, ages: Iterable[float], unanswered: float, now: float) -> None:
        """About ten times a second: the `ages` of the calls under way, and that of the oldest without a first delta."""
        running = list(ages)
        if running:
            self.typical.overdue(sum(running) / len(running))
        self.limiter.tick(self.inflight, unanswered, now)
        self.refit(now)

    def _allowance(
        self, priority: Priority, configured: float | None, deadline: float, answer: int | None
    ) -> Allowance:
        budget = self.allowed(priority, configured)
        if not self.rules.wait_budget:
            return Allowance(budget, Reason.WAIT_BUDGET)
        return allowance(budget, deadline, self.typical.answer(answer))

    def _instead_of(
        self, asker: Asker, wait: float, limit: Allowance, *, reason: Reason, classes: Iterable[Priority], now: float
    ) -> Decision[T]:
        if self.rules.fair:
            for priority in classes:
                if priority < asker.priority:
                    break
                if priority == asker.priority:
                    entry = self.queue.victim(priority, asker.caller, asker.weight, asker.session, now)
                else:
                    entry = self.queue.newest_of_heaviest(priority, now)
                if entry is not None:
                    return Decision(Verdict.DISPLACE, wait, limit.seconds, reason, entry[1])
        return Decision(Verdict.REFUSE, wait, limit.seconds, reason)

    def _target(self, budget: float, priority: Priority) -> float:
        return standing_target(budget, self.share(priority), self.typical.hold) if budget < inf else inf

    def _refusals(self, now: float) -> float:
        since = now - self._refused_at
        return self._refused * exp(-since / _REFUSALS_REMEMBERED) if since > 0 else self._refused


def _whole(amount: float, *, least: bool = False) -> int:
    """Of a quota, with room for what floating point loses."""
    return max(int(amount + 1e-6), int(least))
