"""Incremental text filters: each sees an answer piece by piece and decides as if it had seen it whole.

A filter holds text back only while more text could change what it does with it.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import regex

SLICE_CHARS = 2048
MATCH_SECONDS = 0.05  # for one search: a pattern that backtracks for longer fails its request


class TextFilter(Protocol):
    """One filter of one choice of one answer. `feed` returns the text that is decided now, `flush` the rest at the end.

    `finish_reason` is None until the filter ends the answer; then nothing more is to be fed.
    """

    finish_reason: str | None

    def feed(self, text: str) -> str: ...

    def flush(self) -> str: ...


class Redact:
    """Replaces every match of `pattern` by `replacement`, taken literally, as `pattern.sub` would on the whole text.

    Only matches of up to `max_match` characters count, which bounds how much is held back. Raises TimeoutError when one
    search takes longer than `MATCH_SECONDS`.
    """

    finish_reason: str | None = None

    def __init__(self, pattern: "regex.Pattern[str]", replacement: str, max_match: int) -> None:
        self._pattern = pattern
        self._replacement = replacement
        self._max = max_match
        self._slice = max(SLICE_CHARS, max_match)
        # Whether a line or text ends at a match can depend on what comes next.
        self._to_the_end = "$" in pattern.pattern or r"\Z" in pattern.pattern
        self._text = ""  # what was given out lately, for look-behinds and \b, then what is held back
        self._start = 0  # where the held-back text begins

    def feed(self, text: str) -> str:
        """Takes long texts in slices: a search that may end in a partial match looks at every place of what it gets."""
        if len(text) <= self._slice:
            self._text += text
            return self._decide(final=False)
        out: list[str] = []
        for at in range(0, len(text), self._slice):
            self._text += text[at : at + self._slice]
            out.append(self._decide(final=False))
        return "".join(out)

    def flush(self) -> str:
        return self._decide(final=True)

    def _decide(self, *, final: bool) -> str:
        out: list[str] = []
        while (end := self._next(out, final=final)) is not None:
            self._start = end
        self._forget()
        return "".join(out)

    def _next(self, out: list[str], *, final: bool) -> int | None:
        """Gives out what is decided up to the end of the next match; returns that end, None when nothing more is
        decided."""
        text, start = self._text, self._start
        if start >= len(text):
            return None
        match = self._pattern.search(text, start, partial=not final, timeout=MATCH_SECONDS)
        if match is None:
            out.append(text[start:])
            self._start = len(text)
            return None
        begin, end = match.span()
        if not final:
            earlier = self._undecided(start, begin, partial=match.partial)
            if earlier is None and self._to_the_end and text[end:] in ("", "\n") and len(text) - begin <= self._max:
                earlier = begin
            if earlier is not None:
                out.append(text[start:earlier])
                self._start = earlier
                return None
            if match.partial:  # of nothing yet, or of more than may be held back
                out.append(text[start:])
                self._start = len(text)
                return None
        if end == begin or end - begin > self._max:
            out.append(text[start : begin + 1])
            return begin + 1
        out.append(text[start:begin] + self._replacement)
        return end

    def _undecided(self, start: int, begin: int, *, partial: bool) -> int | None:
        """The first position from which more text could still make a match other than the one at `begin`; None: there
        is none."""
        text = self._text
        earliest = max(start, len(text) - self._max)
        last = len(text) if partial else begin + 1
        for position in range(earliest, last):
            if self._pattern.fullmatch(text, position, partial=True, timeout=MATCH_SECONDS) is not None:
                return position
        return None

    def _forget(self) -> None:
        surplus = self._start - self._max
        if surplus > 4 * self._max:
            self._text = self._text[surplus:]
            self._start -= surplus


class Stop:
    """Ends the answer, with finish_reason `stop`, before the first of `sequences`."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self.finish_reason: str | None = None
        self._sequences = tuple(sequences)
        self._longest = max(map(len, sequences))
        self._held = ""

    def feed(self, text: str) -> str:
        text = self._held + text
        found = [at for at in (text.find(sequence) for sequence in self._sequences) if at >= 0]
        if found:
            self.finish_reason = "stop"
            self._held = ""
            return text[: min(found)]
        keep = self._could_begin(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _could_begin(self, text: str) -> int:
        """Length of the longest end of `text` with which a sequence begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(sequence.startswith(tail) for sequence in self._sequences):
                return length
        return 0


class MaxLength:
    """Ends the answer, with finish_reason `length`, after `chars` characters."""

    def __init__(self, chars: int) -> None:
        self.finish_reason: str | None = None
        self._left = chars

    def feed(self, text: str) -> str:
        if len(text) > self._left:
            self.finish_reason = "length"
            text = text[: self._left]
        self._left -= len(text)
        return text

    def flush(self) -> str:
        return ""


FilterFactory = Callable[[], TextFilter]


class TextChain:
    """A route's filters, in order, over one choice of one answer; itself a `TextFilter`."""

    __slots__ = ("_filters", "finish_reason")

    def __init__(self, factories: Sequence[FilterFactory]) -> None:
        self.finish_reason: str | None = None
        self._filters = [factory() for factory in factories]

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None

    def feed(self, text: str) -> str:
        return self._through(text, last=False)

    def flush(self) -> str:
        return self._through("", last=True)

    def _through(self, text: str, *, last: bool) -> str:
        for filter_ in self._filters:
            if text:
                text = filter_.feed(text)
            if filter_.finish_reason is not None:
                self.finish_reason = filter_.finish_reason
                last = True  # the filters behind it see the end of the answer here
            elif last:
                text += filter_.flush()
        return text
