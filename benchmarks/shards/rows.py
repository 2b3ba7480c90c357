"""A figure beside its target, and the table of them."""

from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """`value` must not exceed `most`; None: it could not be measured, which misses. `values`: of all trials, `value`
    being their median; `note`: what else there is to say."""

    figure: str
    value: float | None
    most: float
    unit: str
    values: tuple[float, ...] = ()
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value is not None and self.value <= self.most

    @property
    def measured(self) -> str:
        return "not measured" if self.value is None else f"{self.value:.3g} {self.unit}".rstrip()


def show(console: Console, rows: list[Row]) -> None:
    table = Table(title="Several shards, in one run")
    for column in ("figure", "measured", "at most", "", "all trials"):
        table.add_column(column, justify="right" if column in ("measured", "at most") else "left")
    for row in rows:
        verdict = "met" if row.met else "MISSED"
        trials = "  ".join(f"{value:.3g}" for value in row.values)
        table.add_row(row.figure, row.measured, f"{row.most:g} {row.unit}".rstrip(), verdict, row.note or trials)
    console.print(table)
