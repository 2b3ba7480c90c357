"""A line every so often, while a soak goes on."""

from rich.console import Console

from benchmarks.report.model import Counts
from benchmarks.soak.lives import Lives
from benchmarks.soak.troubles import Troubles


class Progress:
    def __init__(self, console: Console, interval: float) -> None:
        self._console = console
        self._interval = interval
        self._next = interval

    def show(self, seconds: float, counts: Counts, lives: Lives, troubles: Troubles) -> None:
        if seconds < self._next:
            return
        self._next += self._interval
        ended = f"{counts.completed} done {counts.shed} shed {counts.rejected} rejected {counts.expired} expired"
        lost = f"{counts.failed} failed {counts.cancelled} gone"
        held = " ".join(f"{life.role[0]}{life.last('memory'):.0f}" for life in lives.current)
        done = " ".join(f"{name}:{number}" for name, number in sorted(troubles.counts.items()))
        wrong = f"  {len(troubles.problems)} PROBLEMS" if troubles.problems else ""
        line = f"{seconds:6.0f} s  {counts.offered} asked: {ended} {lost}  MB: {held}  {done}{wrong}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
