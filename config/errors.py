"""What can go wrong with a configuration, as data.

ConfigError    the configuration cannot be used; `problems` says what is wrong with it, all at once
Unreadable     a file cannot be read as text; stays inside this package, where it becomes a `Problem`
"""

from collections.abc import Callable, Sequence

from msgspec import Struct


class Problem(Struct, frozen=True):
    """One thing that is wrong. No field ever holds a secret.

    `path` is the key path (`routes[0].worker`), or a file's or variable's name where no key is to blame. `hint` is the
    nearest valid key, name or value, empty when nothing is near. `where` says where that can be found: a file with its
    line, or an environment variable.
    """

    path: str
    found: str
    expected: str
    hint: str = ""
    where: str = ""

    def lines(self, emphasise: Callable[[str], str] = str) -> list[str]:
        place = f"  ({self.where})" if self.where else ""
        lines = [
            f"{emphasise(self.path)}{place}",
            f"    found     {self.found}",
            f"    expected  {self.expected}",
        ]
        return [*lines, f"    nearest   {self.hint}"] if self.hint else lines

    @property
    def line(self) -> str:
        """The same on one line, for a log."""
        place = f" ({self.where})" if self.where else ""
        nearest = f"; nearest {self.hint}" if self.hint else ""
        return " ".join(f"{self.path}: found {self.found}; expected {self.expected}{nearest}{place}".split())


class ConfigError(Exception):
    """Raised when a configuration is refused, or when a secret that it refers to cannot be read."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return report(self.problems)


class Unreadable(Exception):
    """Raised when a file is missing, not readable, too large or not UTF-8; `found` and `expected` as in a `Problem`."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected


def in_lines(problems: Sequence[Problem], most: int = 20, longest: int = 400) -> list[str]:
    """For a log: a line for each of the first `most`, of at most `longest` characters, and how many more there are."""
    lines = [problem.line for problem in problems[:most]]
    lines = [line if len(line) <= longest else line[: longest - 1] + "…" for line in lines]
    return [*lines, f"and {len(problems) - most} more"] if len(problems) > most else lines


def report(problems: Sequence[Problem], emphasise: Callable[[str], str] = str) -> str:
    """All problems as lines for a person, and how many there are. `emphasise` marks the key paths."""
    lines = [line for problem in problems for line in problem.lines(emphasise)]
    return "\n".join([*lines, "1 problem" if len(problems) == 1 else f"{len(problems)} problems"])
