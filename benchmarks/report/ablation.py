"""What each step of the design brought: one line per measured version, kept in `benchmarks/ablation.json`."""

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.report import facts, files, parts, units
from benchmarks.report.errors import CannotRead
from benchmarks.report.model import Report
from benchmarks.report.parts import Cell, Table

PATH = Path(__file__).parent.parent / "ablation.json"


class AblationPhase(msgspec.Struct, kw_only=True):
    """Rates per second, times in seconds; medians where there were several `runs`.

    `door_p99`: of refusals at the door; `high`: of the highest class's requests, what share completed; `jain`: Jain's
    index over the sessions; `cores` that the target used.
    """

    scenario: str
    name: str
    goodput: float
    share: float | None
    p50: float | None
    p99: float | None
    runs: int = 1
    door_p99: float | None = None
    high: float | None = None
    jain: float | None = None
    cores: float | None = None


class AblationLine(msgspec.Struct, kw_only=True):
    """`name` says which version it is in a word or two, `description` what it adds to the line before. `date` is when
    its first run began."""

    name: str
    description: str
    commit: str
    date: str
    command: str
    phases: list[AblationPhase]


def read_ablation(path: Path = PATH) -> list[AblationLine]:
    """In order of recording. Raises CannotRead."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[AblationLine])
    except OSError as error:
        raise CannotRead(path, (error.strerror or str(error)).lower()) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotRead(path, f"it is not a list of ablation lines: {error}") from error


def line_of(reports: Report | Sequence[Report], name: str, description: str) -> AblationLine:
    """From one run, or several of the same version. Warm-up is left out. Raises ValueError without a report, and when
    the reports are of different commits."""
    runs = [reports] if isinstance(reports, Report) else list(reports)
    if not runs:
        raise ValueError("no report: an ablation line is made of at least one")
    commits = sorted({report.environment.commit for report in runs})
    if len(commits) > 1:
        raise ValueError(f"the reports are of different commits: {', '.join(commits)}")
    return AblationLine(
        name=name,
        description=description,
        commit=commits[0],
        date=min(report.environment.started for report in runs),
        command=shlex.join(runs[0].command),
        phases=_medians(runs),
    )


def record(line: AblationLine, path: Path = PATH) -> None:
    """Add the line, or put it in the place of the one with its name. Raises CannotRead, CannotWrite."""
    lines = read_ablation(path) if path.exists() else []
    names = [one.name for one in lines]
    if line.name in names:
        lines[names.index(line.name)] = line
    else:
        lines.append(line)
    files.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=1) + b"\n", path)


def table(lines: Sequence[AblationLine]) -> Table:
    """Each line beside the one before it that measured the same phase."""
    columns = ["version", "what it adds", "commit", "date", "scenario", "phase"]
    columns += ["goodput", "beside the one before", "of the oracle's", "p50", "p99"]
    before: dict[tuple[str, str], float] = {}
    rows = []
    for line in lines:
        for phase in line.phases:
            key = (phase.scenario, phase.name)
            gain = units.fraction(phase.goodput, before[key]) if key in before else None
            before[key] = phase.goodput
            rows.append(
                [
                    parts.words(line.name, 30),
                    parts.words(line.description, 90),
                    parts.words(line.commit[:10]),
                    parts.words(line.date[:10]),
                    parts.words(phase.scenario, 30),
                    parts.words(phase.name, 30),
                    parts.per_second(phase.goodput),
                    Cell(units.ratio(gain), gain),
                    parts.percent(phase.share),
                    parts.seconds(phase.p50),
                    parts.seconds(phase.p99),
                ]
            )
    return Table("What each step brought", columns, rows, left=frozenset({1, 2, 3, 4, 5}))


def _medians(runs: Sequence[Report]) -> list[AblationPhase]:
    phases: dict[tuple[str, str], list[AblationPhase]] = {}
    for report in runs:
        for phase in facts.measured(report):
            latency = phase.timings.latency
            one = AblationPhase(
                scenario=report.scenario_name,
                name=phase.name,
                goodput=phase.goodput,
                share=facts.share(phase),
                p50=latency.percentile(0.5),
                p99=latency.percentile(0.99),
                door_p99=facts.refusal_latency(phase.refusals, "door").percentile(0.99),
                high=facts.highest_served(phase),
                jain=phase.sessions.jain if phase.sessions is not None else None,
                cores=facts.cores(report, phase),
            )
            phases.setdefault((report.scenario_name, phase.name), []).append(one)
    return [
        AblationPhase(
            scenario=scenario,
            name=name,
            goodput=statistics.median(one.goodput for one in found),
            share=_median([one.share for one in found]),
            p50=_median([one.p50 for one in found]),
            p99=_median([one.p99 for one in found]),
            runs=len(found),
            door_p99=_median([one.door_p99 for one in found]),
            high=_median([one.high for one in found]),
            jain=_median([one.jain for one in found]),
            cores=_median([one.cores for one in found]),
        )
        for (scenario, name), found in phases.items()
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
