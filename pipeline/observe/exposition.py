"""The counters of all shards, summed up and rendered in Prometheus' text format. For the supervisor only: no other
process imports prometheus_client."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pipeline.core.outcomes import OUTCOME_OF, Place, Reason
from pipeline.observe.books import by_class, endings, offered, present_replicas, still_open, unrouted
from pipeline.observe.layout import CLASSES, RUN_ENDS, STEP_ENDS, STEPS, UNROUTED, HistogramCells
from pipeline.observe.ledger import Ledger
from pipeline.observe.procfs import usage
from pipeline.observe.usage import UsageTable
from pipeline.observe.usage_families import families as usage_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "headgate_"
_UNKNOWN = "-"

# Shown from the start, as 0, so that a rate over the first request of its kind is not lost: one for each outcome.
_FIRST_ENDINGS = (
    (Place.STREAM, Reason.DONE),
    (Place.INGRESS, Reason.WAIT_BUDGET),
    (Place.INGRESS, Reason.INVALID),
    (Place.INFERENCE, Reason.DEADLINE),
    (Place.STREAM, Reason.CLIENT_GONE),
    (Place.INFERENCE, Reason.BACKEND_UNAVAILABLE),
)
_FIRST_UNROUTED = ((Place.INGRESS, Reason.WAIT_BUDGET), (Place.INGRESS, Reason.INVALID))


class ProcessFacts(NamedTuple):
    """What the supervisor knows about a process. `shard` is None for itself and the knowledge process; `started` is in
    seconds since the epoch; a process that does not run has pid 0."""

    name: str
    shard: int | None
    pid: int
    started: float
    ready: bool
    restarts: int


class Exposition(Collector):
    """`ledger`, `processes` and `usage` are asked at every scrape."""

    def __init__(
        self,
        ledger: Ledger,
        processes: Callable[[], Sequence[ProcessFacts]],
        version: str,
        *,
        usage: UsageTable | None = None,
    ) -> None:
        self._layout = ledger.layout
        self._ledger = ledger
        self._processes = processes
        self._version = version
        self._usage = usage or UsageTable()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are ours alone, and registering must not read the counters."""
        return []

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        blocks, shards, cells = self._ledger.read()
        yield from self._requests(cells)
        yield from self._stages(cells)
        yield from self._answers(cells)
        yield from self._workers(blocks, cells)
        yield from self._replicas(blocks, cells)
        yield from self._workflows(cells)
        yield from self._shards(shards)
        yield from self._of_processes()
        yield from usage_families(self._usage)

    def _requests(self, cells: list[int]) -> Iterator[Metric]:
        asked = _counter("requests_offered", "Requests that asked for a route; '-': that never had one.", "route")
        ended = _counter(
            "requests", "Requests by how, where and why they ended.", "route", "outcome", "stage", "reason"
        )
        opened = _gauge("requests_open", "Requests offered to a route that have not ended.", "route")
        for route in self._layout.routes.values():
            asked.add_metric([route.name], offered(route, cells))
            opened.add_metric([route.name], still_open(route, cells))
            first = _FIRST_UNROUTED if route.name == UNROUTED else _FIRST_ENDINGS
            counts: dict[tuple[Place | None, Reason], int] = dict.fromkeys(first, 0)
            counts |= {(place, reason): number for place, reason, number in endings(route, cells)}
            for (place, reason), number in counts.items():
                stage = _UNKNOWN if place is None else place.label
                ended.add_metric([route.name, OUTCOME_OF[reason].value, stage, reason.value], number)
        waiting = _gauge("requests_unrouted", "Requests whose route is not known yet; not counted as offered.")
        waiting.add_metric([], unrouted(self._layout, cells))
        classes = _counter("requests_by_class", "Requests by class and how they ended.", "class", "outcome")
        for name, outcome, number in by_class(self._layout, cells):
            classes.add_metric([name, outcome.value], number)
        yield from (asked, ended, opened, waiting, classes)

    def _stages(self, cells: list[int]) -> Iterator[Metric]:
        depth = _gauge("queue_depth", "Requests waiting in front of a stage.", "stage")
        capacity = _gauge("queue_capacity", "Places in front of a stage.", "stage")
        active = _gauge("stage_active", "Requests in a stage.", "stage")
        offered = _counter("queue_offered", "Requests that were to be put in front of a stage.", "stage")
        taken = _counter("queue_taken", "Requests that a stage took.", "stage")
        shed = _counter("queue_shed", "Requests that found no place in front of a stage.", "stage")
        sojourn = _histogram("queue_sojourn_seconds", "Time in the queue in front of a stage.", "stage")
        service = _histogram("stage_seconds", "Time that a stage worked on a request.", "stage")
        for place, s in self._layout.stages.items():
            label = [place.label]
            for family, index in (
                (depth, s.depth),
                (capacity, s.capacity),
                (active, s.active),
                (offered, s.offered),
                (taken, s.taken),
                (shed, s.shed),
            ):
                family.add_metric(label, cells[index])
            _add_histogram(sojourn, label, s.sojourn, cells)
            _add_histogram(service, label, s.service, cells)
        yield from (depth, capacity, active, offered, taken, shed, sojourn, service)

    def _answers(self, cells: list[int]) -> Iterator[Metric]:
        first = _histogram(
            "time_to_first_token_seconds", "From a request's arrival to its answer's first delta.", "route", "worker"
        )
        gaps = _histogram("inter_token_latency_seconds", "Between deltas; those that came together share it.", "worker")
        tokens = _counter("tokens", "Tokens as workers counted them.", "direction", "route", "worker")
        deltas = _counter("deltas", "Deltas that workers delivered.", "route", "worker")
        static = _counter("static_answers", "Requests that got a route's static answer.", "route")
        degraded = _counter("degraded", "Requests that got less because of the load.", "route", "step")
        for route in self._layout.routes.values():
            if route.name == UNROUTED:
                continue
            for worker_name, answer in route.answers.items():
                labels = [route.name, worker_name]
                _add_histogram(first, labels, answer.first_token, cells)
                tokens.add_metric(["prompt", *labels], cells[answer.prompt_tokens])
                tokens.add_metric(["completion", *labels], cells[answer.completion_tokens])
                deltas.add_metric(labels, cells[answer.deltas])
            static.add_metric([route.name], cells[route.static])
            for index, step in enumerate(STEPS, route.reduced):
                degraded.add_metric([route.name, step], cells[index])
        for worker in self._layout.workers.values():
            _add_histogram(gaps, [worker.name], worker.inter_token, cells)
        yield from (first, gaps, tokens, deltas, static, degraded)

    def _workers(self, blocks: list[list[int]], cells: list[int]) -> Iterator[Metric]:
        """What shards may do adds up; a wait, and that a queue stands, is that of the shard where it is worst."""
        limit = _gauge("worker_limit", "Calls that a worker may be given at once now.", "worker")
        inflight = _gauge("worker_inflight", "Calls that a worker is busy with.", "worker")
        waiting = _gauge("worker_waiting", "Requests let in and not yet given to a worker.", "worker", "class")
        wait = _gauge("worker_estimated_wait_seconds", "Until a newcomer of class normal would start.", "worker")
        allowed = _gauge("worker_allowed_wait_seconds", "That it may wait now; 0: without a limit.", "worker")
        standing = _gauge("admission_standing", "1 while a worker's queue stands, as CoDel judges.", "worker")
        pushed_back = _counter("worker_pushed_back", "Calls that a worker answered with 429 or 503.", "worker")
        retries = _counter("worker_retries", "Calls to a worker that were made again.", "worker")
        fallbacks = _counter("worker_fallbacks", "Requests that a worker got because another failed.", "worker")
        for worker in self._layout.workers.values():
            label = [worker.name]
            limit.add_metric(label, cells[worker.limit])
            inflight.add_metric(label, cells[worker.inflight])
            for index, name in enumerate(CLASSES, worker.waiting):
                waiting.add_metric([worker.name, name], cells[index])
            wait.add_metric(label, max(block[worker.estimated_wait] for block in blocks) / 1e9)
            allowed.add_metric(label, min(block[worker.allowed_wait] for block in blocks) / 1e9)
            standing.add_metric(label, max(block[worker.standing] for block in blocks))
            pushed_back.add_metric(label, cells[worker.pushed_back])
            retries.add_metric(label, cells[worker.retries])
            fallbacks.add_metric(label, cells[worker.fallbacks])
        yield from (limit, inflight, waiting, wait, allowed, standing, pushed_back, retries, fallbacks)

    def _replicas(self, blocks: list[list[int]], cells: list[int]) -> Iterator[Metric]:
        """How a replica is, is what the shard says that thinks the worst of it."""
        labels = ("worker", "replica")
        state = _gauge("replica_state", "Its circuit: 0 closed, 1 half-open, 2 open.", *labels)
        healthy = _gauge("replica_healthy", "1 while the last look at a replica went well.", *labels)
        inflight = _gauge("replica_inflight", "Calls that a replica is busy with.", *labels)
        calls = _counter("replica_calls", "Calls made to a replica.", *labels)
        failures = _counter("replica_failures", "Calls that a replica failed.", *labels)
        for worker, name, where in present_replicas(self._layout, blocks):
            label = [worker, name]
            known = [block for block in blocks if block[where.state]]
            state.add_metric(label, max(block[where.state] for block in known) - 1)
            healthy.add_metric(label, min(block[where.healthy] for block in known))
            inflight.add_metric(label, cells[where.inflight])
            calls.add_metric(label, cells[where.calls])
            failures.add_metric(label, cells[where.failures])
        yield from (state, healthy, inflight, calls, failures)

    def _workflows(self, cells: list[int]) -> Iterator[Metric]:
        counts, gauges = self._layout.workflow_counts, self._layout.workflow_gauges
        runs = _counter("workflow_runs", "Runs of workflows that ended, by how.", "state")
        steps = _counter("workflow_steps", "Steps of runs that ended, by how.", "state")
        for family, prefix, ends in ((runs, "runs", RUN_ENDS), (steps, "steps", STEP_ENDS)):
            for state in ends:
                family.add_metric([state], cells[counts[f"{prefix}_{state}"]])
        yield from (runs, steps)
        for name, family in (
            ("runs_submitted", _counter("workflow_runs_submitted", "Runs that were made.")),
            ("runs_resumed", _counter("workflow_runs_resumed", "Runs taken up after a process had ended.")),
            ("runs_lost", _counter("workflow_runs_lost", "Runs that another process took over from a living one.")),
            ("steps_retried", _counter("workflow_steps_retried", "Attempts of steps after a failed one.")),
            ("steps_postponed", _counter("workflow_steps_postponed", "Times that a shed step began to wait.")),
            ("journal_failures", _counter("workflow_journal_failures", "Times that the journal could not be reached.")),
        ):
            family.add_metric([], cells[counts[name]])
            yield family
        for name, now in (
            ("runs_executing", _gauge("workflow_runs_executing", "Runs under way.")),
            ("steps_executing", _gauge("workflow_steps_executing", "Steps under way.")),
            ("steps_pending", _gauge("workflow_steps_pending", "Steps that wait for a place.")),
        ):
            now.add_metric([], cells[gauges[name]])
            yield now

    def _shards(self, shards: dict[int, list[int]]) -> Iterator[Metric]:
        connections = _gauge("connections", "Open client connections.", "shard")
        lag = _histogram("event_loop_lag_seconds", "How late a shard's event loop ran its timer.", "shard")
        stalls = _counter("event_loop_stalls", "How often a shard's event loop stood still for too long.", "shard")
        tasks = _gauge("event_loop_tasks", "Tasks of a shard's event loop that have not ended.", "shard")
        sessions = _gauge("sessions_owned", "Sessions with requests waiting or under way in their shard.", "shard")
        relayed = _counter("relayed", "Requests that a shard accepted and handed to another.", "shard")
        dropped = _counter("log_lines_dropped", "Log lines lost because nobody read them in time.", "shard")
        for shard, cells in shards.items():
            label = [str(shard)]
            connections.add_metric(label, cells[self._layout.connections])
            dropped.add_metric(label, cells[self._layout.lines_dropped])
            tasks.add_metric(label, cells[self._layout.tasks])
            stalls.add_metric(label, cells[self._layout.stalls])
            sessions.add_metric(label, cells[self._layout.sessions])
            relayed.add_metric(label, cells[self._layout.relayed])
            _add_histogram(lag, label, self._layout.lag, cells)
        yield from (connections, lag, stalls, tasks, sessions, relayed, dropped)

    def _of_processes(self) -> Iterator[Metric]:
        build = _gauge("build_info", "Always 1; the version that runs.", "version")
        build.add_metric([self._version], 1)
        shards = _counter("shard_restarts", "How often a shard was started again.", "shard")
        knowledge = _counter("knowledge_restarts", "How often the knowledge process was started again.")
        ready = _gauge("process_ready", "1 when a process does its work.", "process")
        started = _gauge("process_start_time_seconds", "When a process started, since the epoch.", "process")
        resident = _gauge("process_resident_memory_bytes", "Memory that a process occupies.", "process")
        cpu = _counter("process_cpu_seconds", "User and system time of a process.", "process")
        descriptors = _gauge("process_open_fds", "File descriptors that a process has open.", "process")
        for facts in self._processes():
            label = [facts.name]
            ready.add_metric(label, int(facts.ready))
            if facts.shard is not None:
                shards.add_metric([str(facts.shard)], facts.restarts)
            elif facts.name == "knowledge":
                knowledge.add_metric([], facts.restarts)
            used = usage(facts.pid) if facts.pid else None
            if used is None:
                continue
            started.add_metric(label, facts.started)
            resident.add_metric(label, used.resident_bytes)
            cpu.add_metric(label, used.cpu_seconds)
            descriptors.add_metric(label, used.open_fds)
        yield from (build, shards, knowledge, ready, started, resident, cpu, descriptors)


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, documentation, labels=labels)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, documentation, labels=labels)


def _histogram(name: str, documentation: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(_PREFIX + name, documentation, labels=labels)


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], histogram: HistogramCells, cells: Sequence[int]
) -> None:
    """Our buckets count their own interval, Prometheus' count everything below their bound."""
    buckets: list[tuple[str, float]] = []
    below = 0
    bounds = (*(repr(bound) for bound in histogram.bounds), "+Inf")
    for index, bound in enumerate(bounds, histogram.first):
        below += cells[index]
        buckets.append((bound, below))
    family.add_metric(labels, buckets, cells[histogram.total] / 1e9)
