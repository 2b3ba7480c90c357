"""What a soak came to."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.report.model import Account, Counts, Environment
from benchmarks.soak.lives import Life
from benchmarks.soak.troubles import Happened


class Result(msgspec.Struct, kw_only=True):
    """`seconds` of load; `counts` by the clients, `accounts` beside the daemon's; `problems` is what failed."""

    environment: Environment
    seed: int
    shards: int
    seconds: float
    counts: Counts
    accounts: Sequence[Account]
    events: Sequence[Happened]
    log: dict[str, int]
    lives: Sequence[Life]
    problems: Sequence[str]

    @property
    def clean(self) -> bool:
        return not self.problems


def show(console: Console, result: Result) -> None:
    _counts(console, result)
    _done(console, result)
    _lives(console, result)
    for problem in result.problems:
        console.print(f"FAILED: {problem}", style="red", markup=False, highlight=False)
    verdict = "clean" if result.clean else f"{len(result.problems)} problems"
    console.print(f"{result.seconds / 60:.1f} minutes, seed {result.seed}, {result.shards} shards: {verdict}")


def _counts(console: Console, result: Result) -> None:
    table = Table(title="Requests")
    for column in ("", "clients saw", "may be", "daemon counted"):
        table.add_column(column, justify="left" if not column else "right")
    for account in result.accounts:
        bounds = f"{account.least}-{account.most}"
        table.add_row(account.outcome, str(account.client), bounds, str(account.target))
    console.print(table)


def _done(console: Console, result: Result) -> None:
    table = Table(title="What was done to it")
    for column in ("", "times", "until mended, s: median", "longest"):
        table.add_column(column, justify="left" if not column else "right")
    for what in dict.fromkeys(event.what for event in result.events):
        events = [event for event in result.events if event.what == what]
        took = sorted(event.took for event in events if event.took is not None)
        times = (f"{took[len(took) // 2]:.2f}", f"{took[-1]:.2f}") if took else ("", "")
        table.add_row(what, str(len(events)), *times)
    console.print(table)


def _lives(console: Console, result: Result) -> None:
    table = Table(title="The processes: at 10 s of age or first, most, last (of the one that lived longest)")
    for column in ("", "lives", "longest, s", "memory, MB", "descriptors", "threads", "tasks"):
        table.add_column(column, justify="left" if not column else "right")
    for role in ("supervisor", "shard", "knowledge"):
        lives = [life for life in result.lives if life.role == role and life.points]
        if lives:
            oldest = max(lives, key=lambda life: life.points["memory"][-1][0])
            shown = [_course(oldest, name) for name in ("memory", "descriptors", "threads", "tasks")]
            table.add_row(role, str(len(lives)), f"{oldest.points['memory'][-1][0]:.0f}", *shown)
    console.print(table)


def _course(life: Life, measure: str) -> str:
    points = life.points.get(measure)
    if not points:
        return ""
    first = next((value for age, value in points if age >= 10), points[0][1])
    return f"{first:.0f} {max(value for _, value in points):.0f} {points[-1][1]:.0f}"
