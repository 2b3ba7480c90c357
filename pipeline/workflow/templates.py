"""Values with templates in them: compiled once, filled in for each step. (interface; see the docstrings)"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.workflow.ports import Names


class Limits:
    """Of one rendering: characters made and seconds taken."""

    def __init__(self, max_chars: int = 1_000_000, timeout: float = 1.0) -> None:
        self.max_chars = max_chars
        self.timeout = timeout


class Refused(Exception):
    """A template that cannot be compiled. `line` (from 1) is in its own text; `where` the dotted place inside the
    value."""

    def __init__(self, message: str, line: int = 1, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.where = where


class Failed(Exception):
    """A rendering failed: an undefined name (it is named), a limit, a type. `reference` is the name where it is one."""

    def __init__(self, message: str, reference: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reference = reference


class Compiled:
    """`references`: every variable that it may read, as paths: ("steps", "draft", "text"), ("topic",); parts that are
    not constant end the path. Names that it binds itself (loop variables, `set`) are not among them."""

    references: Sequence[tuple[str, ...]]

    def render(self, names: Names, local: Mapping[str, Any] | None = None, limits: Limits | None = None) -> Any:
        """The value: JSON types. Raises `Failed`."""
        raise NotImplementedError


def compile_value(value: Any) -> Any:
    """A value as it is declared: a `Compiled` where any text in it is a template, else the value itself. A text that is
    one whole `{{ expression }}` keeps the expression's type. Raises `Refused`."""
    raise NotImplementedError


def compile_expression(text: str) -> Compiled:
    """`a == 'b'` or `{{ a == 'b' }}`. Raises `Refused`."""
    raise NotImplementedError
