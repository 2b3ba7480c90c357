"""What the commands show to people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from pipeline.observe.overview import ReplicaFigures, StageOverview
from pipeline.operate.changes import Listed
from pipeline.operate.fitted import Fitted, Kind, Shown
from pipeline.process.admin_types import Changed, DaemonStatus, ProcessStatus, RouteStatus, Share, WorkerStatus

_COLOURS = {"ready": "green", "starting": "yellow", "stopping": "yellow", "down": "red", "given up": "bold red"}
_CIRCUITS = {"closed": "green", "half-open": "yellow", "open": "red"}
_SOON_S = 0.05  # is shown as 0.0 s
_SILENT_S = 1.0  # an event loop that has not turned for so long stands; its pulse comes ten times a second
_FOREVER = 1e6  # seconds: as the counters say "without end"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def status(
    daemon: DaemonStatus, stages: Sequence[StageOverview], workers: Sequence[WorkerStatus] = ()
) -> RenderableType:
    head = (_headline(daemon), _requests(daemon.requests, daemon.circuit_open))
    processes, given_up = _processes(daemon.processes), _given_up(daemon.processes)
    return Group(*head, "", processes, *given_up, "", _stages(stages), *_below(_replicas(workers)))


def workers(found: Sequence[WorkerStatus]) -> RenderableType:
    """The workers, and below them the replicas of those that have several, or one that is not well."""
    figures = [Shown(name) for name in ("calls", "waiting", "wait", "429/503")]
    table = Fitted(Shown("worker", Kind.NAME), Shown("kind", Kind.NOTE), *figures, Shown("routes", Kind.WORDS))
    for worker in found:
        shown = Text(worker.name + (" (draining)" if worker.drain else ""), style="yellow" if worker.drain else "")
        table.add(shown, worker.kind, *_figures(worker), _used_by(worker) or Text("none", style="dim"))
    return Group(table, *_below(_replicas(found)))


def routes(found: Sequence[RouteStatus]) -> RenderableType:
    """`static` are some of the completed; `shed` leaves out those that found no backend."""
    table = Fitted(
        Shown("route", Kind.NAME),
        Shown("workers", Kind.WORDS),
        *(Shown(name) for name in ("offered", "open", "completed")),
        Shown("static", optional=True),
        Shown("shed"),
        Shown("circuit open", short="circuit", optional=True),
        Shown("failed"),
        Shown("other", optional=True),
    )
    for route in found:
        table.add(route.name, _shares(route.workers), *_outcomes(route))
    return table


def changed(change: Changed) -> RenderableType:
    """What a change or reload has come to."""
    lines: list[RenderableType] = [Listed(change.changed)] if change.changed else []
    if change.changed and not change.persistent:
        lines.append(Text("In force until the configuration is read again: at the next reload, or start.", style="dim"))
    if change.restart:
        lines.append(Text("Not in force before a restart:", style="yellow"))
        lines.append(Listed(change.restart))
    return Group(*lines) if lines else Text("Nothing is different from what is in force.")


def duration(seconds: float) -> str:
    """Short, in the two largest units."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02} h"


def _headline(daemon: DaemonStatus) -> Text:
    text = Text()
    text.append(f"Headgate {daemon.version}", style="bold").append(f" serves on {daemon.address}")
    text.append(f", for {duration(daemon.uptime_s)}")
    if daemon.draining:
        text.append(" (draining)", style="bold yellow")
    return text.append(f"\nadmin API on {daemon.admin}") if daemon.admin else text


def _requests(counts: dict[str, int], circuit_open: int) -> Text:
    ended = sum(number for name, number in counts.items() if name != "offered")
    offered = counts.get("offered", 0)
    told = dict(counts)
    if circuit_open:
        told["shed"] = told.get("shed", 0) - circuit_open
        told["refused as no backend could be called"] = circuit_open
    parts = [f"{number:,} {name}" for name, number in told.items() if number and name != "offered"]
    if offered > ended:
        parts.append(f"{offered - ended:,} open")
    return Text(f"{offered:,} request{'' if offered == 1 else 's'}" + (": " + ", ".join(parts) if parts else ""))


def _processes(processes: Sequence[ProcessStatus]) -> Table:
    table = _table("process", "state", *_right("pid", "up", "restarts", "requests", "pulse"))
    for process in processes:
        shard = process.shard is not None
        pulse = "" if process.pulse_age_s is None or not process.pid else f"{1000 * process.pulse_age_s:,.0f} ms"
        table.add_row(
            process.name,
            _state(process),
            str(process.pid or ""),
            duration(process.uptime_s) if process.pid else "",
            f"{process.restarts:,}" if process.name != "supervisor" else "",
            f"{process.load:,}" if shard and process.pid else "",
            pulse,
        )
    return table


def _given_up(processes: Sequence[ProcessStatus]) -> list[Text]:
    return [Text(f"{process.name} was given up: {process.reason}", "red") for process in processes if process.reason]


def _state(process: ProcessStatus) -> Text:
    silent = process.pulse_age_s or 0.0
    if process.state == "ready" and silent > _SILENT_S:
        return Text(f"ready, silent for {duration(silent)}", style="bold red")
    return Text(process.state, style=_COLOURS.get(process.state, ""))


def _stages(stages: Sequence[StageOverview]) -> Table:
    table = _table("stage", *_right("waiting", "places", "active", "taken", "shed"))
    for stage in stages:
        full = stage.capacity > 0 and stage.depth >= stage.capacity
        table.add_row(
            stage.name,
            Text(f"{stage.depth:,}", style="red" if full else ""),
            *(f"{number:,}" for number in (stage.capacity, stage.active, stage.taken)),
            Text(f"{stage.shed:,}", style="yellow" if stage.shed else ""),
        )
    return table


def _figures(worker: WorkerStatus) -> tuple[str, str, str, Text]:
    figures = worker.figures
    if figures is None:
        return "", "", "", Text()
    wait = "endless" if figures.estimated_wait_s >= _FOREVER else f"{figures.estimated_wait_s:.2f} s"
    pushed = Text(f"{figures.pushed_back:,}", style="yellow" if figures.pushed_back else "")
    return f"{figures.in_flight:,} of {figures.limit:,}", f"{sum(figures.waiting.values()):,}", wait, pushed


def _replicas(workers: Sequence[WorkerStatus]) -> Fitted | None:
    """None where all workers have one, which is well."""
    found = [(worker.name, replica) for worker in workers for replica in _telling(worker)]
    if not found:
        return None
    names = [Shown("worker", Kind.NAME), Shown("replica", Kind.NAME)]
    figures = [Shown(name) for name in ("running", "calls", "failed", "next try")]
    table = Fitted(*names, Shown("circuit", Kind.NOTE), Shown("last look", Kind.NOTE), *figures)
    for name, replica in found:
        table.add(
            name,
            replica.name,
            Text(replica.state, style=_CIRCUITS.get(replica.state, "")),
            Text("well", style="green") if replica.healthy else Text("failed", style="red"),
            *(f"{number:,}" for number in (replica.in_flight, replica.calls)),
            Text(f"{replica.failures:,}", style="yellow" if replica.failures else ""),
            _next_try(replica),
        )
    return table


def _telling(worker: WorkerStatus) -> Sequence[ReplicaFigures]:
    """The replicas that are worth a line: more than one, or one that is not well."""
    replicas = worker.figures.replicas if worker.figures else []
    return replicas if len(replicas) > 1 or not all(map(_well, replicas)) else []


def _well(replica: ReplicaFigures) -> bool:
    return replica.state == "closed" and replica.healthy


def _next_try(replica: ReplicaFigures) -> str:
    """An open circuit whose time is over waits for a request that tries it."""
    if replica.state == "closed":
        return ""
    if replica.reopens_s < _SOON_S:
        return "next request"
    return f"in {duration(replica.reopens_s)}" if replica.state == "open" else "under way"


def _below(table: Fitted | None) -> tuple[RenderableType, ...]:
    return () if table is None else ("", table)


def _used_by(worker: WorkerStatus) -> Text:
    fallbacks = ", ".join(f"{route} (fallback)" for route in worker.fallback_of)
    shown = _shares(worker.routes)
    return shown.append((", " if shown and fallbacks else "") + fallbacks)


def _outcomes(route: RouteStatus) -> list[str | Text]:
    figures = route.figures
    if figures is None:
        return [""] * 8
    outcomes = dict(figures.outcomes)
    completed, shed, failed = (outcomes.pop(name, 0) for name in ("completed", "shed", "failed"))
    return [
        *(f"{number:,}" for number in (figures.offered, figures.open, completed)),
        Text(f"{figures.static_answers:,}", style="yellow" if figures.static_answers else ""),
        f"{shed - figures.circuit_open:,}",
        Text(f"{figures.circuit_open:,}", style="red" if figures.circuit_open else ""),
        *(f"{number:,}" for number in (failed, sum(outcomes.values()))),
    ]


def _shares(shares: Sequence[Share]) -> Text:
    """With the weights that are not 1."""
    each = (share.name if share.weight == 1.0 else f"{share.name} ({share.weight:g})" for share in shares)
    return Text(", ".join(each))


def _table(*columns: str | Column) -> Table:
    whole = [column if isinstance(column, Column) else Column(column, overflow="fold") for column in columns]
    return Table(*whole, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right", no_wrap=True) for name in names]
