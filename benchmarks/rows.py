"""A figure beside its target, and the table of them."""

from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """`value` has to be in `least` … `most`, both included; None: it could not be measured, which misses. `note`: what
    else there is to say."""

    figure: str
    value: float | None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        if self.value is None or (self.least is not None and self.value < self.least):
            return False
        return self.most is None or self.value <= self.most

    @property
    def measured(self) -> str:
        return "not measured" if self.value is None else f"{self.value:.4g} {self.unit}".rstrip()

    @property
    def target(self) -> str:
        if self.least is not None and self.least == self.most:
            return f"{self.least:g} {self.unit}".rstrip()
        bounds = [("≥", self.least), ("≤", self.most)]
        return ", ".join([f"{sign} {bound:g} {self.unit}".rstrip() for sign, bound in bounds if bound is not None])


def show(console: Console, title: str, rows: list[Row]) -> None:
    table = Table(title=title)
    for column in ("figure", "target", "measured", "", "note"):
        table.add_column(column, justify="right" if column in ("target", "measured") else "left")
    for row in rows:
        table.add_row(row.figure, row.target, row.measured, "met" if row.met else "MISSED", row.note)
    console.print(table)
