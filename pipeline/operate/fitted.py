"""Tables that keep names and numbers whole, however narrow the terminal is."""

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Column, Table
from rich.text import Text

_GAP = 2  # spaces between columns


class Kind(enum.Enum):
    NAME = enum.auto()  # at the left; in a table that does not fit, above the rest of its row
    FIGURE = enum.auto()
    NOTE = enum.auto()  # a word or two
    WORDS = enum.auto()  # may be broken between words


class Shown(NamedTuple):
    """A column. In a table that does not fit its title is `short`, where there is one, and an `optional` column is left
    out when it is all zeros."""

    title: str
    kind: Kind = Kind.FIGURE
    short: str = ""
    optional: bool = False


class Fitted:
    """The names come first. What does not fit even with short titles and without the zeros has two lines a row: the
    names, and below them the rest."""

    def __init__(self, *columns: Shown) -> None:
        self._columns = columns
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text, style: str = "") -> None:
        """A row."""
        row = [cell.copy() if isinstance(cell, Text) else Text(cell) for cell in cells]
        for cell in row:
            cell.stylize_before(style)
        self._rows.append(row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        places = list(range(len(self._columns)))
        titles = [column.title for column in self._columns]
        if self._width(places, titles) > options.max_width:
            places = [place for place in places if not (self._columns[place].optional and self._idle(place))]
            titles = [column.short or column.title for column in self._columns]
        if self._width(places, titles) > options.max_width:
            yield from self._folded(places, titles, options.max_width)
        else:
            yield self._table(places, titles)

    def _table(self, places: Sequence[int], titles: Sequence[str]) -> Table:
        columns = []
        for place in places:
            kind = self._columns[place].kind
            right = "right" if kind is Kind.FIGURE else "left"
            columns.append(Column(titles[place], justify=right, no_wrap=kind is not Kind.WORDS))  # type: ignore[arg-type]
        table = Table(*columns, box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        return table

    def _folded(self, places: Sequence[int], titles: Sequence[str], room: int) -> Iterator[Text]:
        names = [place for place in places if self._columns[place].kind is Kind.NAME]
        words = [place for place in places if self._columns[place].kind is Kind.WORDS]
        others = [place for place in places if place not in (*names, *words)]
        widths = {place: self._column_width(place, titles[place]) for place in others}
        for row in ([Text(title, style="bold") for title in titles], *self._rows):
            named = _line([row[place] for place in names])
            yield from map(_whole, [named] if named.cell_len <= room else [row[place] for place in names])
            rest = [_line([self._aligned(row[place], place, widths[place]) for place in others])]
            for line in rest + [row[place] for place in words]:
                yield from _indented(line, room - _GAP)

    def _aligned(self, cell: Text, place: int, width: int) -> Text:
        cell = cell.copy()
        cell.align("right" if self._columns[place].kind is Kind.FIGURE else "left", width)
        return cell

    def _idle(self, place: int) -> bool:
        return all(row[place].plain in ("", "0") for row in self._rows)

    def _width(self, places: Sequence[int], titles: Sequence[str]) -> int:
        """The least that the table takes."""
        return sum(self._column_width(place, titles[place]) for place in places) + _GAP * (len(places) - 1)

    def _column_width(self, place: int, title: str) -> int:
        cells = [title, *(row[place].plain for row in self._rows)]
        if self._columns[place].kind is Kind.WORDS:
            cells = [word for cell in cells for word in cell.split()]
        return max(map(cell_len, cells), default=0)


def _line(cells: Sequence[Text]) -> Text:
    return Text(" " * _GAP).join(cells)


def _indented(line: Text, room: int) -> Iterator[Text]:
    """On several lines if need be; none of what says nothing."""
    words = line.plain.split()
    if words:
        for piece in line.wrap(Console(width=room), max(room, *map(cell_len, words))):
            piece.rstrip()
            yield _whole(Text(" " * _GAP) + piece)


def _whole(line: Text) -> Text:
    """What is wider than the terminal is left to that."""
    line = line.copy()
    line.no_wrap, line.overflow = True, "ignore"
    return line
