"""What a person sees while a run goes on: one line, renewed on a terminal, now and then elsewhere."""

import asyncio
import sys

from benchmarks.load.driver import Driver

_SELDOM = 10.0  # seconds between lines where there is no terminal


class Progress:
    """Writes to stderr, so that stdout holds the report alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._width = 0

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._clear()
            self._write(text + "\n")

    async def follow(self, driver: Driver) -> None:
        """Until cancelled: where the run is, once a second."""
        clock = asyncio.get_running_loop().time
        total = sum(phase.seconds + phase.pause_seconds for phase in driver.scenario.phases)
        written = clock()
        while True:
            await asyncio.sleep(1.0)
            now = clock()
            if self._quiet or (not self._terminal and now - written < _SELDOM):
                continue
            written = now
            line = _line(driver, now, total)
            if self._terminal:
                self._write("\r" + line.ljust(self._width))
                self._width = len(line)
            else:
                self._write(line + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it any more; the run goes on
            self._quiet = True

    def done(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0


def _line(driver: Driver, now: float, total: float) -> str:
    if not driver.phases:
        return f"{now - driver.began:4.0f} s of {total:.0f} s"
    ledger = driver.phases[-1]
    counts = ledger.books.counts
    refused = counts.shed + counts.rejected + counts.expired
    p99 = ledger.books.timings.latency.percentile(0.99)
    over = now > ledger.began + ledger.phase.seconds
    waiting = "" if not over else " · waiting for answers" if driver.in_flight else " · pause"
    latency = f" · p99 {p99 * 1000:.0f} ms" if p99 is not None else ""
    behind = f" · BEHIND by {driver.punctuality.lag.most * 1000:.0f} ms" if driver.punctuality.note() else ""
    return (
        f"{now - driver.began:4.0f} s of {total:.0f} s · {ledger.phase.name} · "
        f"sent {ledger.attempts + driver.in_flight} · "
        f"completed {counts.completed} · refused {refused} · failed {counts.failed + counts.unreachable} · "
        f"in flight {driver.in_flight}{latency}{behind}{waiting}"
    )
