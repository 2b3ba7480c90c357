import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.observe.books import endings, still_open, totals, unrouted
from pipeline.observe.layout import OUTCOMES, STEPS, UNROUTED, Counted, MetricsLayout
from pipeline.observe.metrics import ShardMetrics
from pipeline.process.counters import SharedMemory
from tests.observe.requests import COUNTED, complete, end, open_ticket

MORE = Counted(
    {"docs": ["small", "large"], "mail": ["small"], "code": ["large", "coder"]},
    {"small": ["s2:8000", "s3:8000"], "coder": ["c1:8000"], "unused": ["u1:8000"]},
)
names = st.sampled_from("abcd")
shares = st.dictionaries(names, st.lists(names, min_size=1, max_size=3), max_size=4)
configurations = st.builds(Counted, shares, shares)


def cells_of(layout: MetricsLayout) -> list[int]:
    """Every cell that means something, as often as it does."""
    used = [layout.opened, layout.connections, layout.lines_dropped, layout.tasks, layout.stalls]
    used += [layout.relayed, layout.sessions, *layout.workflow_counts.values(), *layout.workflow_gauges.values()]
    histograms = [layout.lag]
    for stage in layout.stages.values():
        used += stage[:6]
        histograms += [stage.sojourn, stage.service]
    for route in layout.routes.values():
        used += [*range(route.outcomes, route.outcomes + len(Place) * len(Reason)), route.lost, route.offered]
        used += [*route.gated, route.static, *range(route.reduced, route.reduced + len(STEPS))]
        for answer in route.answers.values():
            used += [answer.prompt_tokens, answer.completion_tokens, answer.deltas]
            histograms.append(answer.first_token)
    for worker in layout.workers.values():
        used += [*worker.gauges(), *worker.followed()]
        histograms.append(worker.inter_token)
        assert set(range(worker.waiting, worker.waiting + len(Priority))) <= set(worker.gauges())
    for first in layout.classes.values():
        used += range(first, first + len(OUTCOMES))
    for histogram in histograms:
        used += [*range(histogram.first, histogram.first + len(histogram.bounds) + 1), histogram.total]
    return used


def contents(layout: MetricsLayout) -> dict[str, object]:
    return vars(layout)


@pytest.mark.parametrize("history", [[COUNTED], [COUNTED, MORE]])
def test_no_cell_has_two_meanings_and_few_have_none(history):
    layout = MetricsLayout(history)
    used = cells_of(layout)
    assert len(used) == len(set(used))
    assert layout.size - 8 * len(history) < len(used) <= layout.size
    assert max(used) < layout.size


def test_what_ends_lies_below_what_is_offered():
    layout = MetricsLayout([COUNTED])
    last_outcome = max(r.outcomes for r in layout.routes.values()) + len(Place) * len(Reason) - 1
    offered = [r.offered for r in layout.routes.values()]
    assert last_outcome < min(offered)
    assert max(offered) < layout.opened


class TestGrowth:
    def test_what_is_known_keeps_its_cells(self):
        layout, before = MetricsLayout([COUNTED]), MetricsLayout([COUNTED])
        layout.extend(MORE)
        assert layout.size > before.size
        assert min(set(cells_of(layout)) - set(cells_of(before))) >= before.size
        assert set(cells_of(before)) < set(cells_of(layout))
        for name, worker in before.workers.items():
            grown = layout.workers[name]
            assert grown._replace(replicas={}) == worker._replace(replicas={})
            assert worker.replicas.items() <= grown.replicas.items()
        assert list(layout.workers["small"].replicas) == ["s1:8000", "s2:8000", "s3:8000"]
        assert list(layout.workers["coder"].replicas) == ["c1:8000"]
        assert "unused" not in layout.workers
        assert list(layout.routes["docs"].answers) == ["small", "large"]
        assert list(layout.routes) == ["-", "docs", "chat", "code", "mail"]

    def test_what_is_not_new_changes_nothing(self):
        layout = MetricsLayout([COUNTED])
        layout.extend(Counted({"docs": ["small"]}, {"small": ["s1:8000"]}))
        layout.extend(Counted())
        assert contents(layout) == contents(MetricsLayout([COUNTED]))

    def test_says_beforehand_whether_there_is_room(self):
        layout, grown = MetricsLayout([COUNTED]), MetricsLayout([COUNTED, MORE])
        assert layout.fits(MORE, grown.size)
        assert not layout.fits(MORE, grown.size - 1)
        assert layout.fits(COUNTED, layout.size)
        assert contents(layout) == contents(MetricsLayout([COUNTED]))

    @given(st.lists(configurations, min_size=1, max_size=5))
    def test_its_history_makes_the_same_elsewhere(self, configurations):
        layout = MetricsLayout(configurations[:1])
        for configuration in configurations[1:]:
            layout.extend(configuration)
        assert contents(MetricsLayout(layout.history)) == contents(layout)
        assert contents(MetricsLayout(configurations)) == contents(layout)
        used = cells_of(layout)
        assert len(used) == len(set(used))
        for configuration in configurations:
            for route, workers in configuration.routes.items():
                assert set(workers) <= set(layout.routes[route].answers)
                assert set(workers) <= set(layout.workers)
        for worker, replicas in configurations[-1].replicas.items():
            assert worker not in layout.workers or set(replicas) <= set(layout.workers[worker].replicas)

    def test_those_who_count_find_the_new_cells(self):
        layout = MetricsLayout([COUNTED])
        cells = [0] * MetricsLayout([COUNTED, MORE]).size
        metrics = ShardMetrics(layout, cells)
        layout.extend(MORE)
        end(open_ticket(metrics, "mail"), Reason.DONE, Place.STREAM)
        assert totals(layout, [cells])["completed"] == 1
        assert cells[layout.routes["mail"].offered] == 1


def test_a_copy_is_the_block_without_the_room_behind_it():
    layout = MetricsLayout([COUNTED, MORE])
    memory = SharedMemory.create(shards=1, block=layout.size + 64)
    for cell in range(layout.size + 64):
        memory.blocks[0][cell] = cell
    assert layout.copied(memory.blocks[0]) == list(range(layout.size))
    memory.close()


@pytest.mark.slow
def test_nothing_ends_before_it_was_offered_in_a_part_that_was_added_while_a_shard_writes():
    """Another process writes without pause, to routes of three parts: a copy is never one moment, and never absurd."""
    layout = MetricsLayout([COUNTED, MORE, Counted({"late": ["small"]})])
    memory = SharedMemory.create(shards=1, block=layout.size)
    writer = os.fork()
    if writer == 0:
        metrics = ShardMetrics(layout, memory.blocks[0])
        while True:
            for route in ("docs", "mail", "late", None):
                end(open_ticket(metrics, route), Reason.INVALID, Place.INGRESS)
            complete(metrics, "docs")
    try:
        copies, until = 0, time.monotonic() + 0.7
        while time.monotonic() < until:
            cells = layout.copied(memory.blocks[0])
            copies += 1
            assert unrouted(layout, cells) >= 0
            for route in layout.routes.values():
                assert still_open(route, cells) >= 0
        assert copies > 20
        for name in ("mail", "late", UNROUTED):
            assert sum(number for *_, number in endings(layout.routes[name], cells)) > copies
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        memory.close()
