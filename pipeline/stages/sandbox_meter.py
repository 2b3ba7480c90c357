"""What the sandbox raises, and what one rendering may use. See `pipeline.stages.sandbox`."""

import time
from collections.abc import Iterator
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.exceptions import UndefinedError

from pipeline.stages.sandbox_parts import ABSENT

MAX_BITS = 256
_LEAST = 0.02
MADE_FACTOR = 8  # what is made on the way may be this much more than what is printed


class TemplateRefused(Exception):
    """The template cannot be used: a syntax error, or something that the sandbox does not offer. `line` counts from
    1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class TemplateFailed(Exception):
    """Rendering failed or went over a limit. `reference` is the name that is not there, where that is why."""

    def __init__(self, message: str, reference: str = "") -> None:
        super().__init__(message)
        self.reference = reference


# What jinja2's parser and Python's compiler raise at texts made for it.
UNPARSABLE = (TemplateError, RecursionError, SyntaxError, ValueError, MemoryError)


def refusal(error: BaseException) -> TemplateRefused:
    """Of one of `UNPARSABLE`."""
    line = getattr(error, "lineno", 1) or 1
    if isinstance(error, TemplateError):
        return TemplateRefused(error.message or type(error).__name__, line)
    if isinstance(error, ValueError):
        return TemplateRefused(f"the template cannot be read: {error}", 1)
    return TemplateRefused("the template is nested too deeply", 1)


class Meter:
    """What one rendering has used. All of it raises `TemplateFailed`."""

    __slots__ = ("_chars", "_deadline", "_made", "_timeout", "_used", "max_chars")

    def __init__(self, max_chars: int, timeout: float) -> None:
        self.max_chars = max_chars
        self._chars = 0
        self._made = 0
        self._timeout = max(timeout, 0.0)
        self._used: float | None = None  # CPU time of this thread, when the time was up
        self._deadline = time.monotonic() + timeout

    def tick(self) -> None:
        if time.monotonic() > self._deadline:
            self._late()

    def _late(self) -> None:
        """Where others had the CPU meanwhile, that is not the template's fault: it is sure of half of its time."""
        used, sure = time.thread_time(), self._timeout / 2
        if self._used is None:
            self._used = used
        left = sure - (used - self._used)
        if left <= sure * _LEAST:
            raise TemplateFailed("the template took longer than template_timeout_ms")
        self._deadline = time.monotonic() + left

    def stop_clock(self, seconds: float) -> None:
        """So long nothing was rendered."""
        self._deadline += seconds

    def step(self) -> None:
        self.tick()
        self._chars += 1  # a loop over nothing but text counts too
        self.fits(self._chars)

    def printed(self, text: str) -> None:
        self._chars += len(text)
        self.fits(self._chars)
        self.tick()

    def fits(self, size: int) -> None:
        """To be asked before something of this size is made."""
        if size > self.max_chars:
            raise TemplateFailed(f"the template made more than template_max_chars ({self.max_chars}) characters")

    def made(self, value: Any) -> Any:
        """Counts what is kept on the way: all variables together take bounded memory."""
        if isinstance(value, str | list | tuple | dict):
            self._made += len(value)
            if self._made > self.max_chars * MADE_FACTOR:
                self.fits(self._made)
        elif type(value) is int and value.bit_length() > MAX_BITS:  # dividing two of millions takes minutes
            raise TemplateFailed("a number this large is not computed in a template")
        return value

    def each(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            self.tick()
            yield value


class UnknownName(UndefinedError):
    """A name, field or index is not there. `reference` is all of it, as it is written."""

    def __init__(self, message: str | None, reference: str) -> None:
        super().__init__(message)
        self.reference = reference


class Missing(StrictUndefined):
    """What is not there: an error wherever it is used, but for `default` and `is defined`."""

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = ABSENT, name: str | None = None, exc: Any = None) -> None:
        del exc
        reference = name or ""
        super().__init__(
            hint or f"`{reference}` is not known here",
            obj,
            reference,
            lambda message: UnknownName(message, reference),  # type: ignore[arg-type]  # only ever called
        )
