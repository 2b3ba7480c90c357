"""Where problems are gathered while a configuration is checked, and where in force values come from."""

from typing import Any

from msgspec.structs import replace

from config.errors import ConfigError, Problem
from config.paths import KeyPath, dotted, parsed
from config.source import Source


class Findings:
    """The problems of one configuration.

    `overrides` says which environment variable set which key; whoever applies one enters it here.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.overrides: dict[KeyPath, str] = {}
        self._bad: set[KeyPath] = set()
        self._problems: list[tuple[int, Problem]] = []

    def add(self, path: KeyPath, found: str, expected: str, hint: str = "", *, beside: KeyPath | None = None) -> None:
        """Note a problem with a key. `beside` is the key to look at when this one stands at its default."""
        line, where = self._where(path if beside is None or _contains(self.source.tree, path) else beside)
        self._bad.add(path)
        self._problems.append((line, Problem(dotted(path), found, expected, hint, where)))

    def add_variable(self, name: str, path: KeyPath, found: str, expected: str, hint: str = "") -> None:
        """Note a problem with an environment variable that sets no key."""
        problem = Problem(dotted(path), found, expected, hint, f"environment {name}")
        self._problems.append((0, problem))

    def placed(self, problem: Problem) -> Problem:
        """A problem that was found elsewhere, with the place of its key."""
        if problem.where or not (path := parsed(problem.path)):
            return problem
        return replace(problem, where=self._where(path)[1])

    def sound(self, *paths: KeyPath) -> bool:
        """Whether nothing was found wrong with these keys, what is above them and what is under them."""
        return not any(bad[: len(path)] == path[: len(bad)] for path in paths for bad in self._bad)

    def raise_if_any(self) -> None:
        """Raise ConfigError with all problems, those of the environment first, then in the order of the file."""
        if self._problems:
            raise ConfigError([problem for _, problem in sorted(self._problems, key=lambda entry: entry[0])])

    def origin(self, path: KeyPath) -> str:
        """Where the value in force at a key comes from."""
        if not _contains(self.source.tree, path):
            return "default"
        name = self._override(path)
        return f"environment {name}" if name else f"file {self.source.path}"

    def _override(self, path: KeyPath) -> str:
        """The variable that set the key or the nearest table around it, empty where none did."""
        prefixes = (path[:length] for length in range(len(path), 0, -1))
        return next((self.overrides[prefix] for prefix in prefixes if prefix in self.overrides), "")

    def _where(self, path: KeyPath) -> tuple[int, str]:
        """The line in the file and how to name the place; a key that is missing is placed where its table begins."""
        name = self._override(path)
        if name:
            return 0, f"environment {name}"
        file, lines = self.source.path, self.source.lines
        line = next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 0)
        return line, f"{file}:{line}" if line else str(file)


def _contains(tree: Any, path: KeyPath) -> bool:
    part: Any
    for part in path:
        if not isinstance(tree, dict | list):
            return False
        try:
            tree = tree[part]
        except LookupError:
            return False
    return True
