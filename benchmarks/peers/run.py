"""The whole comparison: which gateways can take part, point by point, and what came of it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers.gateway import CannotPrepare, CannotStart, Gateway
from benchmarks.peers.interrupt import Interrupt, Interrupted
from benchmarks.peers.plan import Planned, Point, estimate, points
from benchmarks.peers.point import GENERATOR, Measured, measure
from benchmarks.peers.together import together
from benchmarks.report import units
from benchmarks.report.files import write
from benchmarks.report.model import Report


class Run:
    """`missing`: who was not measured, or not throughout, and why. `problems`: what `--check` objects to besides.

    Reports go to `folder`: SCENARIO/GATEWAY.json, and each phase's to SCENARIO/points.
    """

    def __init__(
        self,
        gateways: Sequence[Gateway],
        scenarios: Sequence[Planned],
        folder: Path,
        interrupt: Interrupt,
        say: Callable[[str], None],
        *,
        command: Sequence[str],
        rounds: int = 1,
        check: bool = False,
        generator: Sequence[str] = GENERATOR,
    ) -> None:
        self.missing: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self._gateways = {gateway.name: gateway for gateway in gateways}
        self._versions = {gateway.name: gateway.version for gateway in gateways}
        self._scenarios = scenarios
        self._folder = folder
        self._interrupt = interrupt
        self._say = say
        self._command = command
        self._rounds = rounds
        self._check = check
        self._generator = generator
        self._measured: dict[tuple[str, str], list[tuple[Point, Report]]] = {}

    def go(self) -> bool:
        """Install, then measure. Whether it came to its end; False after Ctrl-C, and then all processes have ended."""
        try:
            self._prepare()
            every = points(self._scenarios, list(self._gateways), self._rounds)
            self._say(f"{units.some(len(every), 'point')}, about {max(round(estimate(every) / 60), 1)} min")
            for index, point in enumerate(every, 1):
                self._point(point, f"[{index}/{len(every)}]")
                if self._interrupt.count:
                    return False
        except Interrupted:
            return False
        return True

    def reports(self) -> list[Report]:
        """One for each gateway, scenario and round; written beside its points. Raises ReportError."""
        return [self._together(found) for found in self._measured.values()]

    def _prepare(self) -> None:
        for name, gateway in list(self._gateways.items()):
            began = time.monotonic()
            try:
                gateway.prepare(self._interrupt.tick)
            except CannotPrepare as error:
                self._leave_out(name, str(error))
                continue
            took = time.monotonic() - began
            self._say(f"{name} {gateway.version}".rstrip() + (f": installed in {took:.0f} s" if took >= 1 else ""))

    def _point(self, point: Point, count: str) -> None:
        gateway = self._gateways.get(point.gateway)
        if gateway is None:
            return
        self._say(f"{count} {point.planned.label}, {point.phase}: {point.gateway}, {point.seconds:.0f} s")
        file = self._folder / point.planned.label / "points" / point.file
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            measured = measure(point, gateway, file, self._interrupt, check=self._check, generator=self._generator)
        except CannotStart as error:
            self._leave_out(point.gateway, f"before {point.planned.label}, {point.phase}: {error}")
            return
        self._keep(point, measured)

    def _keep(self, point: Point, measured: Measured) -> None:
        where = f"{point.planned.label}, {point.phase}"
        for problem in measured.problems:
            self.problems.append(f"{point.gateway}, {where}: {problem}")
            self._say(f"  {problem}")
        if measured.report is None:
            self.missing.append((point.gateway, f"{where}: {measured.problems[0]}"))
            return
        self._measured.setdefault((point.planned.label, point.run), []).append((point, measured.report))
        for phase in measured.report.phases:
            if not phase.warmup:
                p99 = units.duration(phase.timings.latency.percentile(0.99))
                self._say(f"  goodput {units.rate(phase.goodput)}, p99 {p99}")

    def _leave_out(self, name: str, reason: str) -> None:
        """From here on."""
        del self._gateways[name]
        self.missing.append((name, reason))
        self._say(f"{name} is left out: {reason}")

    def _together(self, found: Sequence[tuple[Point, Report]]) -> Report:
        point = found[0][0]
        names, had = point.planned.measured(), {one.phase for one, _ in found}
        report = together(
            [report for _, report in found],
            point.planned.whole(names),
            version=self._versions[point.gateway],
            command=self._command,
            missing=[name for name in names if name not in had],
        )
        write(report, self._folder / point.planned.label / f"{point.run}.json")
        return report
