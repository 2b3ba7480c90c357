"""All trials that the chosen rows need, one after the other, and the table that comes of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import environment
from benchmarks.overload import ablation, cost
from benchmarks.overload.lines import Line
from benchmarks.overload.page import Result
from benchmarks.overload.rows import ROWS, accounted
from benchmarks.overload.trial import Outcome
from benchmarks.overload.trial import run as run_trial
from benchmarks.overload.trials import STEPS, TRIALS, USUAL, Trial, point, step_trials
from benchmarks.peers.interrupt import Interrupt, Interrupted
from benchmarks.peers.point import GENERATOR
from benchmarks.report import facts, units
from benchmarks.report.model import Report

CPU = "cpu"  # the row that is not measured by load
_AROUND = 6.0  # seconds that a backend and a daemon take to start and end, roughly
_CPU_SECONDS = 90.0


class Wanted(NamedTuple):
    """`rows` by key, in the order of `ROWS`; `seconds` stand for the usual ones of a phase, `step_seconds` for those of
    the ablation's steps, None where there is to be no ablation. `shards` processes serve."""

    rows: Sequence[str]
    seconds: float = USUAL
    step_seconds: float | None = None
    shards: int = 1

    def trials(self) -> list[tuple[Trial, float]]:
        """Each once, with its seconds."""
        keys = {key for row in self.rows for key in ROWS[row].trials}
        main = [(trial, self.seconds) for key, trial in TRIALS.items() if key in keys]
        if self.step_seconds is None:
            return main
        return main + [(trial, self.step_seconds) for step in STEPS for trial in step_trials(step)]

    def estimate(self) -> float:
        """Seconds, roughly."""
        load = sum(point(trial, "", seconds).seconds + _AROUND for trial, seconds in self.trials())
        return load + (_CPU_SECONDS if CPU in self.rows else 0.0)


class Run:
    """Reports of trials go to `folder`."""

    def __init__(
        self,
        wanted: Wanted,
        folder: Path,
        interrupt: Interrupt,
        say: Callable[[str], None],
        *,
        command: list[str],
        generator: Sequence[str] = GENERATOR,
    ) -> None:
        self._wanted = wanted
        self._folder = folder
        self._interrupt = interrupt
        self._say = say
        self._command = command
        self._generator = generator
        self._outcomes: dict[str, Outcome] = {}
        self._cpu: list[Line] = []

    def go(self) -> Result:
        """Until all is measured, or Ctrl-C; then all that was started has ended."""
        whole, began = True, environment.environment()
        try:
            self._measure()
        except Interrupted:
            whole = False
        return Result(
            lines=self._lines(),
            steps=ablation.lines(self._outcomes) if self._wanted.step_seconds is not None else [],
            outcomes=self._outcomes,
            environment=began,
            command=self._command,
            seconds=self._wanted.seconds,
            whole=whole,
        )

    def _measure(self) -> None:
        trials = self._wanted.trials()
        self._say(f"{units.some(len(trials), 'trial')}, about {max(round(self._wanted.estimate() / 60), 1)} min")
        if CPU in self._wanted.rows:
            self._cpu = cost.lines(CPU, quick=self._wanted.seconds < USUAL, say=self._cost)
        for index, (trial, seconds) in enumerate(trials, 1):
            self._trial(trial, seconds, f"[{index}/{len(trials)}]")

    def _cost(self, what: str) -> None:
        if self._interrupt.count:
            raise Interrupted
        self._say(f"CPU of a refusal: {what}")

    def _trial(self, trial: Trial, seconds: float, count: str) -> None:
        began = time.monotonic()
        self._say(f"{count} {trial.key}: {trial.what}, {point(trial, '', seconds).seconds:.0f} s")
        file = self._folder / f"{trial.key}.json"
        shards = self._wanted.shards
        outcome = run_trial(trial, seconds, file, self._interrupt, generator=self._generator, shards=shards)
        self._outcomes[trial.key] = outcome
        for line in [*outcome.problems, *([] if outcome.report is None else _said(outcome.report))]:
            self._say(f"  {line}")
        self._say(f"  took {time.monotonic() - began:.0f} s")
        if self._interrupt.count:
            raise Interrupted

    def _lines(self) -> list[Line]:
        found: list[Line] = []
        for key in self._wanted.rows:
            row = ROWS[key]
            found += self._cpu_lines() if key == CPU else row.judge(row, self._outcomes)
        return [*found, accounted(self._outcomes)] if self._outcomes else found

    def _cpu_lines(self) -> list[Line]:
        return self._cpu or [Line(CPU, "CPU of a refusal", "≤ 0.5, ≤ 0.05", "not measured", None, met=False)]


def _said(report: Report) -> list[str]:
    """A line for each measured phase, and what is wrong with it."""
    verdict = facts.verdict(report)
    lines = [] if verdict.level == "sound" else [f"{verdict.headline} {' '.join(verdict.reasons[:2])}"]
    for phase in facts.measured(report):
        latency, oracle = phase.timings.latency, facts.share(phase)
        of_oracle = "" if oracle is None else f", {units.percent(oracle)} of the oracle's"
        p50, p99 = (units.duration(latency.percentile(share)) for share in (0.5, 0.99))
        lines.append(f"goodput {units.rate(phase.goodput)}{of_oracle}; p50 {p50}, p99 {p99}")
    return lines
