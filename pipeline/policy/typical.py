"""What a worker's calls typically cost, learnt from those that ended.

Moving averages with exponential weights, and low expectiles (Newey and Powell, "Asymmetric Least Squares Estimation and
Testing", Econometrica 1987): averages for which a value above weighs less than one below.
"""

from math import inf

LEAST_HALF_LIFE = 4.0  # completions
_LN2 = 0.6931
_LOW = 4.0  # a value below an expectile of ours weighs 4 * 4 times as much as one above it
_STRANGE = 8.0  # times the mean: no call counts as longer, so that one does not stand for all
_STALE = 60.0  # seconds without an end, after which what comes counts as much as what was


class Typical:
    """Half of what is known is forgotten with every half round of the calls under way, but no sooner than with four of
    them. Times are seconds.

    `hold` is the mean time of a call, 0.0 while unknown; `tokens` the mean of what a call takes from a quota, prompt
    and answer together.
    """

    __slots__ = ("_answer", "_at", "_ends", "_first", "_gap", "_heard", "_length", "_usual", "hold", "tokens")

    def __init__(self) -> None:
        self.hold = 0.0
        self.tokens = 0.0
        self._length = 0.0  # mean tokens of an answer
        self._answer = _Low()  # the same, on the low side
        self._first = _Low()  # seconds until the first delta
        self._gap = _Low()  # seconds for each token after it
        self._ends = 0  # that the averages know of, since they were last stale
        self._at = -inf
        self._heard = 0.0  # mean age of the calls under way when one had last ended
        self._usual = 0.0  # `hold` as it was then

    def ended(  # noqa: PLR0917 - once a request; by name it would take half as long again
        self, hold: float, first_delta: float | None, tokens: int, now: float, inflight: int, prompt: int = 0
    ) -> None:
        """A call is over that says something of what calls take.

        It took `hold`, and `first_delta` until that came (None: nothing did, and of answers nothing is learnt);
        `tokens` are the answer's, or its deltas, `prompt` the prompt's. `inflight` calls were under way, it included.
        A time that is none, after a clock has jumped, is not counted.
        """
        if not 0.0 <= hold < inf:
            return
        gain = self._gain(inflight, now)
        self._heard = inf
        if first_delta is not None and 0.0 <= first_delta <= hold and tokens > 0:
            self._first.add(first_delta, gain)
            self._gap.add((hold - first_delta) / tokens, gain)
            self._answer.add(tokens, gain)
            self._length += gain * (tokens - self._length)
        self.tokens += gain * (prompt + tokens - self.tokens)
        mean = self.hold
        if self._ends > LEAST_HALF_LIFE and hold > _STRANGE * mean > 0.0:
            hold = _STRANGE * mean
        self.hold = self._usual = mean + gain * (hold - mean)

    def overdue(self, ages_mean: float) -> None:
        """To be told about ten times a second how long the calls under way have taken so far, in the mean.

        Raises `hold` to that at once if it is longer, and if for as long as a typical call takes none has ended: a
        backend that froze ends nothing to learn from. One call that hangs among others that end says nothing.
        """
        self._heard = min(self._heard, ages_mean)
        # While nothing ends, the mean age grows as time does, or slower when calls begin.
        if self.hold < ages_mean < inf and ages_mean - self._heard >= self._usual:
            self.hold = ages_mean

    @property
    def first(self) -> float:
        """Seconds until the first delta, on the low side; 0.0 while unknown."""
        return self._first.value

    def answer(self, max_tokens: int | None) -> float:
        """Seconds that an answer with this limit takes at least, as a rule; 0.0 while unknown.

        On the low side, because whoever has less time left than this is refused: a short time until the first delta,
        and a short one for each token of an answer that is short, too.
        """
        tokens = self._answer.value
        if max_tokens is not None and max_tokens < tokens:
            tokens = max_tokens
        return self._first.value + self._gap.value * tokens

    def cost(self, prompt: int, max_tokens: int | None) -> int:
        """Tokens that a call with a prompt of so many is expected to take from a quota: an answer of the mean length,
        while that is unknown of the greatest that it may have, none where it has no limit."""
        mean = round(self._length)
        if max_tokens is None:
            return prompt + mean
        return prompt + (min(max_tokens, mean) if mean else max_tokens)

    def _gain(self, inflight: int, now: float) -> float:
        """The weight of the next value: as in a plain mean at first, then 1 - 2 ** (-1 / half-life), by its series."""
        if now - self._at > _STALE:
            self._ends = min(self._ends, 1)
        self._at = now
        self._ends += 1
        return max(_LN2 / (max(LEAST_HALF_LIFE, inflight / 2) + _LN2 / 2), 1 / self._ends)


class _Low:
    """The low side of a value: a low expectile, quick to fall and slow to rise. Starts near nothing, so that few values
    say little."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float, gain: float) -> None:
        low = self.value
        if value < low:
            self.value = low + (value - low) * min(gain * _LOW, 0.5)
        elif low:
            self.value = low + min(value - low, low) * gain / _LOW  # a long tail must not raise it
        else:
            self.value = value * gain / _LOW
