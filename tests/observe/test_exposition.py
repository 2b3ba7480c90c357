import mmap
import os
import re
import signal
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.core.outcomes import Outcome, Place, Reason
from pipeline.core.ticket import STATIC
from pipeline.observe.books import book_lost
from pipeline.observe.exposition import Exposition, ProcessFacts
from pipeline.observe.layout import MetricsLayout
from pipeline.observe.ledger import Ledger, Living
from pipeline.observe.metrics import ShardGauges, ShardMetrics
from tests.observe.requests import COUNTED, ROUTES, complete, end, open_ticket, refusal, refuse
from tests.observe.test_metrics import Busy, fail, small_pool

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def block(layout: MetricsLayout) -> memoryview:
    return memoryview(mmap.mmap(-1, layout.size * 8)).cast("Q")


def no_processes() -> list[ProcessFacts]:
    return []


def samples(exposition: Exposition) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(exposition.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def exposition(layout, blocks, processes, version) -> Exposition:
    """Of processes that do their work, one for each shard."""
    living = [Living(shard, cells, works=True) for shard, cells in enumerate(blocks)]
    return Exposition(Ledger(layout, len(blocks), lambda: living), processes, version)


def value(found, name, **labels) -> float:
    return found["headgate_" + name, frozenset(labels.items())]


@pytest.fixture
def layout() -> MetricsLayout:
    return MetricsLayout([COUNTED])


def test_sums_up_shards_and_keeps_the_loops_apart(layout):
    blocks = [block(layout), block(layout)]
    for number, cells in enumerate(blocks, 1):
        for _ in range(number):
            complete(ShardMetrics(layout, cells))
        gauges = ShardGauges(layout, cells)
        gauges.lag(0.003 * number)
        gauges.process(connections=10 * number, lines_dropped=number)
        gauges.tasks(5 * number)
        for _ in range(number):
            gauges.stalled()
    found = samples(exposition(layout, blocks, no_processes, "1"))
    assert value(found, "requests_total", route="docs", outcome="completed", stage="stream", reason="done") == 3
    assert value(found, "stage_seconds_count", stage="post") == 3
    assert value(found, "stage_seconds_sum", stage="post") == pytest.approx(0.009)
    assert value(found, "tokens_total", direction="prompt", route="docs", worker="small") == 30
    assert value(found, "connections", shard="1") == 20
    assert value(found, "log_lines_dropped_total", shard="1") == 2
    assert value(found, "event_loop_tasks", shard="1") == 10
    assert value(found, "event_loop_stalls_total", shard="1") == 2
    assert value(found, "event_loop_lag_seconds_sum", shard="0") == pytest.approx(0.003)
    assert value(found, "event_loop_lag_seconds_count", shard="1") == 1


def test_buckets_count_everything_below_their_bound(layout):
    cells = block(layout)
    complete(ShardMetrics(layout, cells))
    found = samples(exposition(layout, [cells], no_processes, "1"))
    assert value(found, "queue_sojourn_seconds_bucket", stage="rag", le="0.0005") == 0
    assert value(found, "queue_sojourn_seconds_bucket", stage="rag", le="0.001") == 1
    assert value(found, "queue_sojourn_seconds_bucket", stage="rag", le="30.0") == 1
    assert value(found, "queue_sojourn_seconds_bucket", stage="rag", le="+Inf") == 1


def test_every_outcome_of_a_route_is_there_from_the_start(layout):
    found = samples(exposition(layout, [block(layout)], no_processes, "1"))
    for route in ROUTES:
        shown = {
            dict(labels)["outcome"]
            for name, labels in found
            if name == "headgate_requests_total" and ("route", route) in labels
        }
        assert shown == {outcome.value for outcome in Outcome}
    assert set(found.values()) <= {0.0, 1.0}


def test_what_the_head_gate_refused_is_added_to_what_had_no_route(layout):
    cells = block(layout)
    metrics = ShardMetrics(layout, cells)
    metrics.after_gate(refusal(), 0.0, 1.0)
    metrics.after_gate(refusal(), 0.0, 1.0)
    end(open_ticket(metrics, None), Reason.WAIT_BUDGET, Place.INGRESS)
    found = samples(exposition(layout, [cells], no_processes, "1"))
    assert value(found, "requests_offered_total", route="-") == 3
    assert value(found, "requests_total", route="-", outcome="shed", stage="ingress", reason="wait_budget") == 3
    assert value(found, "requests_open", route="-") == value(found, "requests_unrouted") == 0
    assert value(found, "requests_by_class_total", **{"class": "-", "outcome": "shed"}) == 3
    assert value(found, "requests_by_class_total", **{"class": "critical", "outcome": "completed"}) == 0


def test_a_workers_limit_adds_up_over_shards_and_its_wait_does_not(layout):
    blocks = [block(layout), block(layout), block(layout)]
    for cells, estimate in zip(blocks, [0.25, 0.75], strict=False):
        busy = Busy([])
        busy.estimate = estimate
        ShardGauges(layout, cells).worker("small", busy, 7.0)
    found = samples(exposition(layout, blocks, no_processes, "1"))
    assert value(found, "worker_limit", worker="small") == 18
    assert value(found, "worker_inflight", worker="small") == 16
    assert value(found, "worker_waiting", **{"worker": "small", "class": "low"}) == 600
    assert value(found, "worker_pushed_back_total", worker="small") == 6
    assert value(found, "worker_estimated_wait_seconds", worker="small") == 0.75
    assert value(found, "admission_standing", worker="small") == 1
    assert value(found, "admission_standing", worker="large") == 0


def test_a_replica_is_as_bad_as_the_shard_says_that_thinks_the_worst_of_it(layout):
    blocks = [block(layout), block(layout), block(layout)]
    for shard, cells in enumerate(blocks[:2]):  # the third has only just begun
        busy = Busy([])
        busy.pool = small_pool()
        busy.pool.retries = shard + 1
        busy.pool.fallbacks = 3
        busy.pool.looked(1, ok=shard == 0, now=7.0)
        if shard == 1:
            fail(busy.pool, 0, 7.0)
        busy.pool.choose(None, 7.0)
        ShardGauges(layout, cells).worker("small", busy, 7.0)
    found = samples(exposition(layout, blocks, no_processes, "1"))
    one, two = {"worker": "small", "replica": "s1:8000"}, {"worker": "small", "replica": "s2:8000"}
    assert (value(found, "replica_state", **one), value(found, "replica_state", **two)) == (2, 0)
    assert (value(found, "replica_healthy", **one), value(found, "replica_healthy", **two)) == (1, 0)
    assert (value(found, "replica_inflight", **one), value(found, "replica_inflight", **two)) == (1, 1)
    assert (value(found, "replica_calls_total", **one), value(found, "replica_calls_total", **two)) == (2, 1)
    assert value(found, "replica_failures_total", **one) == 1
    assert value(found, "worker_retries_total", worker="small") == 3
    assert value(found, "worker_fallbacks_total", worker="small") == 6
    assert ("headgate_replica_state", frozenset({("worker", "large"), ("replica", "l1:8000")})) not in found


def test_static_answers_are_counted_by_route(layout):
    cells = block(layout)
    metrics = ShardMetrics(layout, cells)
    ticket = open_ticket(metrics, "chat")
    ticket.reduced = ("passages=1", STATIC)
    end(ticket, Reason.DONE, Place.STREAM)
    found = samples(exposition(layout, [cells], no_processes, "1"))
    assert value(found, "static_answers_total", route="chat") == 1
    assert value(found, "static_answers_total", route="docs") == 0
    assert value(found, "degraded_total", route="chat", step="fewer_passages") == 1


def test_what_requests_got_less_of_is_shown_by_route_and_step(layout):
    cells = block(layout)
    metrics = ShardMetrics(layout, cells)
    ticket = open_ticket(metrics, "chat")
    ticket.reduced = ("max_tokens=64",)
    end(ticket, Reason.DONE, Place.STREAM)
    found = samples(exposition(layout, [cells], no_processes, "1"))
    assert value(found, "degraded_total", route="chat", step="shorter_answer") == 1
    assert value(found, "degraded_total", route="chat", step="fewer_passages") == 0


def test_what_workflows_did_adds_up_over_shards_and_restarts(layout):
    blocks = [block(layout), block(layout)]
    for number, cells in enumerate(blocks, 1):
        ShardGauges(layout, cells).workflows({"runs_completed": number, "steps_executing": 10 * number})
    again = ShardGauges(layout, blocks[0])  # the first shard's process has been replaced: it counts from 0
    again.workflows({"runs_completed": 4, "steps_executing": 1, "steps_failed": 2})
    found = samples(exposition(layout, blocks, no_processes, "1"))
    assert value(found, "workflow_runs_total", state="completed") == 1 + 2 + 4
    assert value(found, "workflow_runs_total", state="failed") == 0
    assert value(found, "workflow_steps_total", state="failed") == 2
    assert value(found, "workflow_steps_executing") == 1 + 20


def test_a_lost_request_has_no_known_stage(layout):
    cells = block(layout)
    open_ticket(ShardMetrics(layout, cells), "chat")
    book_lost(layout, cells)
    found = samples(exposition(layout, [cells], no_processes, "1"))
    assert value(found, "requests_total", route="chat", outcome="failed", stage="-", reason="shard_lost") == 1
    assert value(found, "requests_open", route="chat") == 0


def test_shows_processes_as_the_kernel_sees_them(layout):
    facts = [
        ProcessFacts("supervisor", None, os.getpid(), 1234.5, ready=True, restarts=0),
        ProcessFacts("shard 0", 0, 0, 0.0, ready=False, restarts=2),
        ProcessFacts("knowledge", None, os.getpid(), 1.0, ready=True, restarts=3),
    ]
    found = samples(exposition(layout, [block(layout)], lambda: facts, "9.9"))
    assert value(found, "build_info", version="9.9") == 1
    assert value(found, "process_start_time_seconds", process="supervisor") == 1234.5
    assert value(found, "process_resident_memory_bytes", process="supervisor") > 5e6
    assert value(found, "process_cpu_seconds_total", process="supervisor") > 0
    assert value(found, "process_open_fds", process="supervisor") >= 3
    assert value(found, "process_ready", process="shard 0") == 0
    assert value(found, "shard_restarts_total", shard="0") == 2
    assert value(found, "knowledge_restarts_total") == 3
    assert ("headgate_process_open_fds", frozenset({("process", "shard 0")})) not in found


def test_the_reference_lists_every_metric_and_no_other(layout):
    facts = [ProcessFacts("knowledge", None, os.getpid(), 1.0, ready=True, restarts=0)]
    text = exposition(layout, [block(layout)], lambda: facts, "1").render().decode()
    rendered = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    described = set(re.findall(r"^\| `(headgate_[a-z_]+)", REFERENCE.read_text(), re.MULTILINE))
    assert described == rendered


@pytest.mark.slow
def test_nothing_ends_before_it_was_offered_even_while_a_shard_writes(layout):
    """Another process writes without pause: a copy of its block is never one moment, and yet never absurd."""
    cells = block(layout)
    writer = os.fork()
    if writer == 0:
        metrics = ShardMetrics(layout, cells)
        while True:
            complete(metrics)
            metrics.after_gate(refusal(), 0.0, 1.0)
            end(open_ticket(metrics, None), Reason.INVALID, Place.INGRESS)
    try:
        shown = exposition(layout, [cells], no_processes, "1")
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            found = samples(shown)
            assert value(found, "requests_unrouted") >= 0
            for route in ("docs", "-"):
                opened = value(found, "requests_open", route=route)
                offered = value(found, "requests_offered_total", route=route)
                ended = sum(
                    v
                    for (name, labels), v in found.items()
                    if name == "headgate_requests_total" and ("route", route) in labels
                )
                assert opened >= 0
                assert offered == ended + opened
        assert offered > 0
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


ALERTS = re.findall(
    r"^\| `([^`]+)` \| (.*) \|$", REFERENCE.read_text().partition("## What to alert on")[2], re.MULTILINE
)


def counts_in(expression: str, labels: dict[str, str]) -> bool:
    """Whether the series of `headgate_requests_total` with these labels is one of those that an alert looks at."""
    return any(
        all(
            (labels.get(label) == wanted) is (how == "=")
            for label, how, wanted in re.findall(r'(\w+)(!?=)"(.*?)"', each)
        )
        for each in re.findall(r"headgate_requests_total\{(.*?)\}", expression)
    )


@pytest.mark.parametrize(
    ("reason", "told", "silent"),
    [
        (Reason.CIRCUIT_OPEN, "shards fail;", "lack of capacity"),
        (Reason.QUEUE_FULL, "lack of capacity", "shards fail;"),
    ],
)
def test_an_outage_is_not_taken_for_a_lack_of_capacity(layout, reason, told, silent):
    """By the alerts that the documentation has."""
    cells = block(layout)
    refuse(ShardMetrics(layout, cells), 1.0, refusal(reason))
    found = samples(exposition(layout, [cells], no_processes, "1"))
    (ended,) = [
        dict(labels) for (name, labels), number in found.items() if name == "headgate_requests_total" and number
    ]
    assert ended["reason"] == reason
    (alert,) = [expression for expression, says in ALERTS if told in says]
    assert counts_in(alert, ended)
    (alert,) = [expression for expression, says in ALERTS if silent in says]
    assert not counts_in(alert, ended)
