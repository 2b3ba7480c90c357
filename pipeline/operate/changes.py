"""How a changed configuration is shown: each key on a line, and what is too long for one on several."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions
from rich.text import Text

from config.paths import quote
from pipeline.process.control import Change

_NOTHING = "nothing"
_INDENT = "    "
_ARROW = "  → "


class Listed:
    """Changes as lines that fit where they are printed, as far as no single value is longer."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for change in self._changes:
            for line in lines(change, options.max_width):
                yield Text(line)


def lines(change: Change, width: int) -> list[str]:
    """`path: before → after`, the one below the other when that is wider than `width`; of a route's workers each whose
    weight is another."""
    shares = _shares(change)
    if shares:
        return [f"{change.path}:", *(_INDENT + share for share in shares)]
    line = f"{change.path}: {_value(change.before)} → {_value(change.after)}"
    if len(line) <= width:
        return [line]
    before, after = (_entries(value, width - len(_INDENT)) for value in (change.before, change.after))
    return [
        f"{change.path}:",
        *(_INDENT + entry for entry in before),
        _ARROW + after[0],
        *(_INDENT + entry for entry in after[1:]),
    ]


def _shares(change: Change) -> list[str]:
    """In the order of the new ones, those that went at the end; none where these are no workers with weights, or only
    their order is another."""
    before, after = _weights(change.before), _weights(change.after)
    if before is None or after is None:
        return []
    names = [*after, *(name for name in before if name not in after)]
    pairs = [(name, before.get(name, _NOTHING), after.get(name, _NOTHING)) for name in names]
    return [f"{quote(name)}: {old} → {new}" for name, old, new in pairs if old != new]


def _weights(value: object) -> dict[str, str] | None:
    if not isinstance(value, list):
        return None
    found: dict[str, str] = {}
    for entry in value:
        match entry:
            case {"worker": str(name), "weight": int() | float() as weight} if len(entry) == 2:
                found[name] = f"{weight:.15g}"
            case _:
                return None
    return found


def _entries(value: object, width: int) -> list[str]:
    """The value on one line if it fits, else each of its entries on its own. Never none."""
    whole = _value(value)
    if len(whole) <= width:
        return [whole]
    match value:
        case dict():
            return [f"{key} = {_value(entry)}" for key, entry in value.items()]
        case list():
            return [_value(entry) for entry in value]
        case _:
            return [whole]


def _value(value: object) -> str:
    match value:
        case None:
            return _NOTHING
        case bool():
            return "true" if value else "false"
        case str():
            return quote(value)
        case dict():
            return "{" + ", ".join(f"{key} = {_value(entry)}" for key, entry in value.items()) + "}"
        case list():
            return "[" + ", ".join(_value(entry) for entry in value) + "]"
        case _:
            return str(value)
