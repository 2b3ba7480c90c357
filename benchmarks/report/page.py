"""The page of one run."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.report import charts, facts, files, parts, tables, units
from benchmarks.report.model import PhaseReport, Report
from benchmarks.report.parts import Absent, Cell, Chart, Facts, Section, Text, Tile
from benchmarks.report.render import render

_SCENARIO_LETTERS = 60_000


def html(report: Report) -> str:
    """The whole page in one file, without any request to anywhere. Raises NeedsPlotly."""
    hardest = facts.hardest(report)
    return render(
        title=_title(report),
        lines=_lines(report),
        verdict=facts.verdict(report),
        tiles_title=f"Hardest phase: {units.plain(hardest.name)}, {facts.at_load(hardest)}" if hardest else "",
        tiles=_tiles(report, hardest) if hardest else [],
        sections=_sections(report),
    )


def write_html(report: Report, path: Path) -> None:
    """Raises CannotWrite, NeedsPlotly."""
    files.write_text(html(report), path)


def _title(report: Report) -> str:
    return ": ".join(dict.fromkeys(units.plain(name, 80) for name in (report.name, report.scenario_name) if name))


def _lines(report: Report) -> list[str]:
    target = report.target
    server = " ".join(filter(None, (target.server, target.version))) or "server unknown"
    return [
        units.plain(f"{target.url}, model {target.model}, {server}", 300),
        f"{report.environment.started}, {units.duration(report.seconds)}, seed {report.seed}",
        facts.summary(report),
    ]


# --- what is looked at first ---------------------------------------------------------------------------------------


def _tiles(report: Report, phase: PhaseReport) -> list[Tile]:
    latency, counts = phase.timings.latency, phase.counts
    door = facts.refusal_latency(phase.refusals, "door")
    away = facts.retry_after_share(phase.refusals)
    it = report.processes
    return [
        Tile("Goodput", parts.per_second(phase.goodput), f"of {units.rate(facts.offered_rate(phase))} offered"),
        Tile("Of what was possible", parts.percent(facts.share(phase)), _lowest(report)),
        Tile("Latency of completed, p50", parts.seconds(latency.percentile(0.5)), "from the intended send time"),
        Tile("Latency of completed, p99", parts.seconds(latency.percentile(0.99)), f"longest {_longest(phase)}"),
        Tile(
            "Refused",
            parts.percent(units.fraction(counts.shed + facts.turned_away(counts), counts.offered)),
            "nobody" if away is None else f"{units.percent(away)} of them with Retry-After",
        ),
        Tile(
            "Gave up or left",
            parts.percent(units.fraction(counts.cancelled, counts.offered)),
            f"{units.count(counts.left)} as the scenario says" if counts.left else "of those offered",
        ),
        Tile(
            "Refusal at the door, p99",
            parts.seconds(door.percentile(0.99)),
            f"{units.count(door.count)} refusals" if door.count else "none known",
        ),
        Tile(
            "CPU of the target",
            Cell(units.duration(it.cpu_per_request), it.cpu_per_request),
            f"a request; memory at most {units.size(it.peak_resident)}" if it.peak_resident else "not observed",
        ),
        _accounting(report),
    ]


def _longest(phase: PhaseReport) -> str:
    latency = phase.timings.latency
    return units.duration(latency.most if latency.count else None)


def _lowest(report: Report) -> str:
    shares = [(share, phase.name) for phase in facts.measured(report) if (share := facts.share(phase)) is not None]
    if not shares:
        return "the capacity is not known"
    if len(shares) == 1:
        return "of the oracle's goodput"
    share, name = min(shares)
    return f"of the oracle's goodput; lowest {units.percent(share)}, in {units.plain(name, 24)}"


def _accounting(report: Report) -> Tile:
    broken = facts.verdict(report).level == "broken"
    compared = {"target": report.accounting.target, "backend": report.backend}
    sides = [name for name, found in compared.items() if found is not None]
    beside = f"the client's count, beside that of {' and '.join(sides)}" if sides else "the client's count alone"
    return Tile("Accounting", Cell("BROKEN", None, "bad") if broken else Cell("adds up", None, "good"), beside)


# --- sections ------------------------------------------------------------------------------------------------------


def _sections(report: Report) -> list[Section]:
    if not any(phase.counts.offered for phase in report.phases):
        return [Section("phases", "Phases", "", _NOTHING), Section("setting", "Setting", "", _setting(report))]
    return [
        Section("phases", "Phases", _PHASES, [tables.loads(report), tables.times(report)]),
        Section("time", "Over time", "", [*over_time(report), *tables.recoveries(report)]),
        Section("load", "Over load", "", [charts.over_load(report)]),
        Section(
            "percentiles",
            "How long it took",
            "",
            _present(charts.distribution(report), charts.latency_by_phase(report)),
        ),
        Section("refusals", "Refusals", _REFUSALS, tables.refusals(report)),
        Section("groups", "Classes and kinds", "", [*tables.groups(report), *tables.sessions(report)]),
        Section("target", "The target's processes", "", _processes(report)),
        Section("backend", "The backend", _BACKEND, tables.backend(report)),
        Section("accounting", "Accounting", _ACCOUNTING, tables.accounting(report)),
        Section("generator", "The generator", _GENERATOR, tables.generator(report)),
        Section("setting", "Setting", "", _setting(report)),
    ]


_PHASES = (
    "Load is a multiple of the capacity. Goodput is what completed while requests arrived, per second. The oracle is "
    "the same arrivals before the same capacity with an admission that costs nothing and knows everything."
)
_REFUSALS = (
    "Attempts, warm-up included, from their own start to the whole answer. One request may be refused more than once."
)
_BACKEND = "What the simulated backend counted by itself, warm-up included."
_ACCOUNTING = (
    "Every request ends in exactly one way. The target and the backend have to tell the same story as the client."
)
_GENERATOR = "Percentiles are only worth what the generator's punctuality is: this is how late it sent."


_NOTHING = [Absent("No figures", "The run ended before its first request was due: there is nothing to show.")]


def over_time(report: Report) -> list[Chart | Absent]:
    """What came of requests, and how long they took, along the run."""
    return _present(charts.outcomes_over_time(report), charts.latency_over_time(report))


def _present(*items: Chart | Absent | None) -> list[Chart | Absent]:
    return [item for item in items if item is not None]


def _processes(report: Report) -> Sequence[Chart | Absent | Facts]:
    it = report.processes
    if it.cpu is None and it.peak_resident is None and not it.samples:
        return [Absent("CPU and memory", f"They were not observed: {units.plain(it.found, 200)}.")]
    how = {"port": "they listen on the target's port", "pid": "named by the user"}
    pairs = [
        ("processes", ", ".join(map(str, it.pids[:40])) or units.NOTHING),
        ("found by", how.get(it.found, units.plain(it.found, 200))),
        ("CPU over the run", units.duration(it.cpu)),
        ("CPU a request, completed or refused", units.duration(it.cpu_per_request)),
        ("memory at most", units.size(it.peak_resident)),
    ]
    return [Facts("Over the run", pairs), *_present(charts.cores_over_time(report), charts.memory_over_time(report))]


def _setting(report: Report) -> list[Facts | Text | parts.Table]:
    env, capacity = report.environment, report.capacity
    machine = [
        ("started", env.started),
        ("Headgate", f"{env.headgate}, commit {env.commit}"),
        ("Python", env.python),
        ("libraries", ", ".join(f"{name} {version}" for name, version in env.libraries.items())),
        ("system", env.system),
        ("machine", f"{env.machine}, {units.some(env.cores, 'core')}, {env.processor}"),
        ("seed", str(report.seed)),
        ("capacity", _capacity(report) if capacity else "not known"),
    ]
    scenario = msgspec.json.format(msgspec.json.encode(report.scenario), indent=2).decode()
    if len(scenario) > _SCENARIO_LETTERS:
        scenario = scenario[:_SCENARIO_LETTERS] + "\n… cut here; the JSON file has all of it"
    return [
        Facts("Where it ran", [(name, units.plain(value, 400)) for name, value in machine]),
        *tables.capacity(report),
        Text("Command", units.plain(shlex.join(report.command), 4000)),
        Text("Scenario", scenario),
    ]


def _capacity(report: Report) -> str:
    it = report.capacity
    how = {
        "given": "given by the user",
        "backend": "from the simulated backend's settings",
        "scenario": "from the scenario",
        "found": "found by a ramp before the run",
    }
    if it is None:
        return "not known"
    most = f", {units.count(it.in_flight)} in flight" if it.in_flight else ""
    return f"{units.rate(it.rate)}{most}: {how.get(it.how, it.how)}"
