"""What of a definition could not be read: nobody is to be told of what is wrong only because of that."""

from typing import Any

from pipeline.workflow.markup import Path

UNREAD = "unread"  # the type of steps that stand for those that could not be read; no other step has it: see `stand_in`
_COMMON = ("id", "depends_on", "condition", "fallback")


class Gaps:
    """`names`: what may have been the names of something that is left out; with `any_name` those are not known, with
    `any_input` the inputs' are not."""

    def __init__(self) -> None:
        self._holes: dict[Path, frozenset[str]] = {}
        self.names: set[str] = set()
        self.any_name = False
        self.any_input = False

    def __bool__(self) -> bool:
        return bool(self._holes)

    def add(self, path: Path, kept: tuple[str, ...] = ()) -> None:
        """Something is left out there. Of what is below it `kept` was read all the same."""
        self._holes[path] = self._holes.get(path, frozenset(kept)) & frozenset(kept)

    def step(self, path: Path) -> None:
        """Something stands in for the step there, and has its common keys only."""
        self.add(path, _COMMON)

    def covers(self, path: Path) -> bool:
        """Whether what is wrong there may come of what was left out."""
        for length in range(len(path) + 1):
            kept = self._holes.get(path[:length])
            if kept is not None and (length == len(path) or path[length] not in kept):
                return True
        return False

    def is_partial(self, path: Path) -> bool:
        """Whether something of what is there was left out."""
        return path in self._holes

    def hides(self, name: str) -> bool:
        """Whether it may be the name of something that was left out."""
        return self.any_name or name in self.names

    def hides_input(self, name: str) -> bool:
        return self.any_input or name in self.names

    def lose(self, value: Any) -> None:
        """What the value may have named is not known now."""
        if isinstance(value, str):
            self.names.add(value)
        elif isinstance(value, list):
            self.names.update(one for one in value if isinstance(one, str))
        elif isinstance(value, dict):
            self.names.update(value)


def stand_in(number: int, common: dict[str, Any]) -> dict[str, Any]:
    """A step in place of one that could not be read; `common` are the keys of every step that could."""
    kept = {key: value for key, value in common.items() if key in {*_COMMON, "on_failure", "output"}}
    return {"id": f"{UNREAD}_{number}", **kept, "type": UNREAD}
