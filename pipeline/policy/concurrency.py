"""How many calls a worker is given at once: a fixed number, or one found from the time to first token.

By Little's law a backend that keeps each request waiting `q` seconds while it takes `x` requests a second has `q * x`
of them in a queue of its own. The adaptive limit aims at a few: enough that no slot of the backend is ever idle, and so
few that the rest wait here, where they can be put in order, counted and refused. That is TCP Vegas (Brakmo and
Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet", IEEE JSAC 13(8), 1995), which Netflix'
concurrency-limits brought to services; its Gradient2 is why the baseline here may move.

`q` is by how much the time to first token, less what the prompt's own length explains, exceeds the baseline: the least
that was seen. A backend that has become slower looks at first like one with a longer queue. So a decrease is an
experiment: where the time does not fall as the limit does, there was no queue, and the baseline was wrong. And as the
baseline itself may have been learnt amid a queue, the limit is lowered for a moment every ten seconds, to see.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Protocol

from pipeline.core.outcomes import Priority

_SAMPLES = (6, 32)  # that a decision is made from: twice the limit, as what began together ends together
_LEAST_SAMPLES = 3  # after PATIENCE
_PATIENCE = 1.0  # seconds
_SLACK = 0.005  # seconds of waiting that are nobody's queue: the event loop's, the network's
_STARTING = 1.5  # times the baseline: above that a first delta is late
_FOLLOWED = 0.4  # share of the expected fall below which a decrease has changed nothing
_EXPERIMENT = 0.2  # of the limit, taken away before it is judged what that has changed
_PROBE_SECONDS = 10.0  # between two looks for a lower baseline
_FIRST_PROBE_SECONDS = 1.0  # after the first decision: it may have been made amid a queue
_DOUBT_SECONDS = 3.0  # after a baseline that was found too low
_LOWER = 0.9  # times the baseline before: below that a probe has found something
_PROBE = 0.6  # of the limit, for one decision
_FORGET = 0.02  # weight of a sample in the regression on the prompt's length
_RIDGE = 0.05  # of the mean length squared: lengths that hardly differ explain nothing
_BACK_OFF = 0.8
_CEILING_SECONDS = (5.0, 20.0)  # after a push-back, in which the limit stays below; twice as long each time
_CAREFUL_SECONDS = 60.0  # after that, in which it grows by one at a time
_RETRY_AFTER_MAX = 60.0
_FROZEN = 4.0  # times the usual time to first token, and a second


class ConcurrencyLimit(Protocol):
    """`limit` calls may run at once. Times are seconds on the caller's clock."""

    @property
    def limit(self) -> int: ...

    @property
    def shares(self) -> Sequence[float]:
        """Calls at once that each class can count on here, on average over time: `limit`, unless that is a lease that
        comes and goes. Always above zero."""
        ...

    def first_delta(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None:
        """A call's first delta came after so many seconds; `inflight` calls were under way when it began, it
        included."""
        ...

    def pushed_back(self, retry_after: float | None, inflight: int, now: float) -> None:
        """The backend answered 429 or 503, perhaps with the time after which to come back; `inflight` calls were under
        way when the call began, it included."""
        ...

    def tick(self, inflight: int, oldest: float, now: float) -> None:
        """About ten times a second; `oldest` is the age of the oldest call without a first delta, 0.0 for none."""
        ...


class FixedLimit:
    """As configured, whatever happens."""

    def __init__(self, limit: int) -> None:
        self.retune(limit)

    def retune(self, limit: int) -> None:
        self.limit = limit
        self.shares = [limit] * len(Priority)

    def first_delta(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None:
        pass

    def pushed_back(self, retry_after: float | None, inflight: int, now: float) -> None:
        pass

    def tick(self, inflight: int, oldest: float, now: float) -> None:
        pass


class AdaptiveLimit:
    """Stays within `minimum` and `maximum`. `baseline` is the time to first token of a backend without a queue, for an
    empty prompt, 0.0 while unknown."""

    def __init__(self, maximum: int, initial: int = 8, minimum: int = 1) -> None:
        self.limit = max(minimum, min(initial, maximum))
        self.shares = [self.limit] * len(Priority)
        self.baseline = 0.0
        self._minimum = minimum
        self._maximum = maximum
        self._exact = float(self.limit)
        self._length = _Slope()
        self._samples: list[tuple[float, int]] = []  # time to first token, prompt's length
        self._came = 0  # first deltas since the limit was set last
        self._most = 0  # calls under way, of the samples
        self._since = 0.0  # when the limit was set last: calls begun before say nothing of it
        self._heard = 0.0
        self._starting = True  # no queue at the backend has been met yet
        self._before: tuple[float, float, float] | None = None  # limit, time and rate before the last decrease
        self._probing: tuple[float, float, float] | None = None  # limit, rate and baseline before
        self._probe_at: float | None = None  # when to do so next
        self._hold_until = 0.0
        self._ceiling = float(maximum)
        self._ceiling_until = -_CAREFUL_SECONDS
        self._ceiling_seconds = _CEILING_SECONDS[0]
        self._pushed_at = 0.0
        self._step = 0.0  # that the limit grew by last

    def retune(self, maximum: int) -> None:
        """Another maximum from now on."""
        self._maximum = maximum
        self._ceiling = min(self._ceiling, float(maximum))
        if self._exact > maximum:
            self._before = self._probing = None
            self._set(self._exact, max(self._heard, self._since))

    def first_delta(
        self, seconds: float, prompt_tokens: int, inflight: int, now: float, *, stale: bool = False
    ) -> None:
        """See `ConcurrencyLimit`. `stale`: the call began where the present limit was not in force yet."""
        if now < self._heard:  # the clock has jumped
            self._since = self._hold_until = self._ceiling_until = self._pushed_at = now
            self._probe_at = None
            self._samples.clear()
        self._heard = now
        self._came += 1
        if self._starting:
            self._start(self._length.without(prompt_tokens, seconds), inflight, now)
        if stale or now - seconds < self._since or seconds < 0.0:
            return
        self._samples.append((seconds, prompt_tokens))
        self._most = max(self._most, inflight)
        count = len(self._samples)
        if count >= min(max(_SAMPLES[0], 2 * self.limit), _SAMPLES[1]) or (
            count >= _LEAST_SAMPLES and now - self._since >= _PATIENCE
        ):
            self._decide(now)

    def pushed_back(self, retry_after: float | None, inflight: int, now: float) -> None:
        if retry_after is not None:
            self._hold_until = max(self._hold_until, now + min(max(retry_after, 0.0), _RETRY_AFTER_MAX))
        lower = min(self._exact, max(inflight - 1.0, float(self._minimum)))
        if now - self._pushed_at >= max(self.baseline, 0.25):  # not the same moment's
            long_ago = now - self._ceiling_until > _CEILING_SECONDS[1]
            self._ceiling_seconds = (
                _CEILING_SECONDS[0] if long_ago else min(2 * self._ceiling_seconds, _CEILING_SECONDS[1])
            )
            if retry_after is not None and long_ago:
                lower *= _BACK_OFF
        self._pushed_at = now
        self._starting = False
        self._before = self._probing = None
        self._ceiling, self._ceiling_until = lower, now + self._ceiling_seconds
        self._set(lower, now)

    def tick(self, inflight: int, oldest: float, now: float) -> None:
        usual = self.baseline + self._length.expected
        silent = now - max(self._heard, self._since)
        if usual and oldest > _FROZEN * usual + 1.0 and silent > usual + 1.0 and inflight >= self.limit / 2:
            self._before = self._probing = None
            self._set(self._exact * _BACK_OFF, now)

    def _start(self, seconds: float, inflight: int, now: float) -> None:
        """One more for each first delta that came as soon as the others: twice as many in each round, as TCP starts
        (Jacobson, "Congestion Avoidance and Control", SIGCOMM 1988)."""
        if not self.baseline or seconds < self.baseline:
            self.baseline = max(seconds, 1e-6)
        if seconds > _STARTING * self.baseline + _SLACK:
            return
        if inflight >= self.limit - 1 and now >= self._hold_until and self._exact + 1.0 <= self._maximum:
            self._exact += 1.0
            self._publish()

    def _decide(self, now: float) -> None:
        samples, most = self._samples, self._most
        for seconds, tokens in samples:
            self._length.add(tokens, seconds)
        time, error = _mean([self._length.without(tokens, seconds) for seconds, tokens in samples])
        rate = self._came / max(now - self._since, 1e-6)
        if not self.baseline or time + error < self.baseline:
            self.baseline = max(time + error, 1e-6)
        before = self._before
        if before is not None and self._exact <= (1 - _EXPERIMENT) * before[0]:
            self._before = None
            if self._changed_nothing(before, time):
                self.baseline = time
                self._probe_at = now + _DOUBT_SECONDS  # it may have been a queue that was still growing
                self._set(before[0], now)
                return
        if self._probing is not None:
            (limit, usual, baseline), self._probing = self._probing, None
            hidden = max(baseline - self.baseline, 0.0) * usual  # waited there all the time
            if self.baseline < _LOWER * baseline:
                self._probe_at = now + _FIRST_PROBE_SECONDS  # and more may be
            self._set(max(limit - hidden, self._exact), now)
            return
        if self._probe_at is None:
            self._probe_at = now + _FIRST_PROBE_SECONDS
        waiting = max(time - error - self.baseline - _SLACK, 0.0) * rate
        self._move(waiting, time, rate, most, now)

    def _move(self, waiting: float, time: float, rate: float, most: int, now: float) -> None:
        limit, aim = self._exact, headroom(self._exact)
        if waiting > aim and most >= limit / 2:
            self._starting = False
            self._step = 0.0
            lower = max(limit - (waiting - aim), limit / 2)
            if self._before is None:
                self._before = (limit, time, rate)
            self._set(lower, now)
            return
        self._before = None
        busy = most >= limit - 1
        if most < limit / 2:  # whatever it takes, it is no queue of ours
            self.baseline += 0.2 * (time - self.baseline)
        due = self._probe_at is not None and now >= self._probe_at and not self._starting
        if busy and due and limit > 2:
            self._probe_at = now + _PROBE_SECONDS
            self._probing = (limit, rate, self.baseline)
            self._set(limit * _PROBE, now)
            return
        if not busy or now < self._hold_until:
            self._set(limit, now)
            return
        if waiting > aim / 4:
            self._step = aim - waiting
        else:  # no queue at all: ever faster
            self._step = max(2 * self._step, aim)
        self._step = min(self._step, 1.0 if now < self._ceiling_until + _CAREFUL_SECONDS else limit)
        ceiling = self._ceiling if now < self._ceiling_until else float(self._maximum)
        self._set(max(min(limit + self._step, ceiling), limit), now)

    def _changed_nothing(self, before: tuple[float, float, float], time: float) -> bool:
        limit, time_before, rate = before
        expected = (limit - self._exact) / rate
        return time_before - time < _FOLLOWED * expected

    def _set(self, limit: float, now: float) -> None:
        self._exact = min(max(limit, float(self._minimum)), float(self._maximum))
        self._publish()
        self._since = now
        self._came = 0
        self._samples = []
        self._most = 0

    def _publish(self) -> None:
        self.limit = int(self._exact + 0.5)
        self.shares = [self.limit] * len(Priority)


def headroom(limit: float) -> float:
    """Calls that may wait at the backend, so that it has the next at hand when one ends."""
    return max(0.6 * sqrt(limit), 0.5)


class _Slope:
    """Seconds that each token of a prompt adds to the time to first token: regression with exponential weights. A queue
    at the backend adds to all alike, whatever their length, and so leaves it as it is."""

    __slots__ = ("_covariance", "_length", "_seconds", "_variance", "slope")

    def __init__(self) -> None:
        self._length = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0
        self.slope = 0.0

    @property
    def expected(self) -> float:
        """Seconds that a prompt of mean length adds."""
        return self.slope * self._length

    def add(self, tokens: int, seconds: float) -> None:
        off, late = tokens - self._length, seconds - self._seconds
        weight = _FORGET if self._length else 1.0
        self._length += weight * off
        self._seconds += weight * late
        if weight < 1.0:
            self._variance = (1 - weight) * (self._variance + weight * off * off)
            self._covariance = (1 - weight) * (self._covariance + weight * off * late)
        ridge = self._variance + _RIDGE * self._length * self._length
        self.slope = max(self._covariance / ridge, 0.0) if ridge else 0.0

    def without(self, tokens: int, seconds: float) -> float:
        return seconds - self.slope * tokens


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean without the largest tenth, which are stalls, and its standard error."""
    values.sort()
    count = len(values) - len(values) // 10
    mean = sum(values[:count]) / count
    squares = sum([(value - mean) ** 2 for value in values[:count]])
    return mean, sqrt(squares) / count
