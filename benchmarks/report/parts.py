"""What a page is made of. The texts in here are plain: the template escapes them, the charts do so themselves."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from benchmarks.report import units

Row = TypeVar("Row")


class Cell(NamedTuple):
    """`text` as it is shown; `value` is the exact figure behind it, for who copies it and for the tests.

    `tone` colours it: `good`, `bad`, `quiet`. Colour is never alone: the text says the same.
    """

    text: str
    value: float | None = None
    tone: str = ""


class Table(NamedTuple):
    """The first cell of a row names it. `left`: which columns hold text, beside the first.
    `half`: it fits beside another on a wide screen."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    left: frozenset[int] = frozenset()
    half: bool = False


class Chart(NamedTuple):
    """`figure` is a plotly figure as JSON. Colours in it are names of the page's CSS variables (`--shed`), so that a
    chart follows the theme. `description` says in words what it shows, for who cannot see it; `table` in figures."""

    id: str
    title: str
    description: str
    figure: dict[str, Any]
    table: Table
    height: int = 340
    half: bool = False


class Absent(NamedTuple):
    """What the report does not have, and why."""

    title: str
    why: str


class Text(NamedTuple):
    """`label`, then text of fixed width that is copied rather than read: a command, a scenario."""

    label: str
    text: str


class Facts(NamedTuple):
    """Names and what belongs to them."""

    caption: str
    pairs: Sequence[tuple[str, str]]


class Section(NamedTuple):
    id: str
    title: str
    intro: str
    items: Sequence[Table | Chart | Absent | Text | Facts]


class Tile(NamedTuple):
    """One figure that is looked at first. `tone` as of a Cell."""

    label: str
    figure: Cell
    beside: str = ""


def kind(item: object) -> str:
    """For the template: `table`, `chart`, …"""
    return type(item).__name__.lower()


def words(text: str, most: int = 60, tone: str = "") -> Cell:
    return Cell(units.plain(text, most), None, tone)


def seconds(value: float | None, tone: str = "") -> Cell:
    return Cell(units.duration(value), value, tone)


def per_second(value: float | None) -> Cell:
    return Cell(units.rate(value), value)


def count(value: int | None, tone: str = "") -> Cell:
    return Cell(units.count(value), value, tone)


def percent(value: float | None) -> Cell:
    return Cell(units.percent(value), value)


def size(value: int | None) -> Cell:
    return Cell(units.size(value), value)


def cores(value: float | None) -> Cell:
    return Cell(units.cores(value), value)


def number(value: float | None) -> Cell:
    return Cell(units.number(value), value)


def busiest(rows: Sequence[Row], most: int, weight: Callable[[Row], float]) -> tuple[list[Row], int]:
    """The `most` heaviest in the order they stand in, and how many were left out."""
    if len(rows) <= most:
        return list(rows), 0
    keep = sorted(range(len(rows)), key=lambda index: weight(rows[index]), reverse=True)[:most]
    return [rows[index] for index in sorted(keep)], len(rows) - most
