import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.observe.books import endings, still_open, totals, unrouted
from pipeline.observe.layout import OUTCOMES, STEPS, UNROUTED, MetricsLayout
from pipeline.observe.metrics import ShardMetrics
from pipeline.process.counters import SharedMemory
from tests.observe.requests import ROUTES, complete, end, open_ticket

MORE = {"docs": ["small", "large"], "mail": ["small"], "code": ["large", "coder"]}
names = st.sampled_from("abcd")
configurations = st.dictionaries(names, st.lists(names, min_size=1, max_size=3), max_size=4)


def cells_of(layout: MetricsLayout) -> list[int]:
    """Every cell that means something, as often as it does."""
    used = [layout.opened, layout.connections, layout.lines_dropped, layout.tasks, layout.stalls]
    histograms = [layout.lag]
    for stage in layout.stages.values():
        used += stage[:6]
        histograms += [stage.sojourn, stage.service]
    for route in layout.routes.values():
        used += [*range(route.outcomes, route.outcomes + len(Place) * len(Reason)), route.lost, route.offered]
        used += [*route.gated, *range(route.reduced, route.reduced + len(STEPS))]
        for answer in route.answers.values():
            used += [answer.prompt_tokens, answer.completion_tokens, answer.deltas]
            histograms.append(answer.first_token)
    for worker in layout.workers.values():
        used += [*worker.gauges(), worker.pushed_back]
        histograms.append(worker.inter_token)
        assert set(range(worker.waiting, worker.waiting + len(Priority))) <= set(worker.gauges())
    for first in layout.classes.values():
        used += range(first, first + len(OUTCOMES))
    for histogram in histograms:
        used += [*range(histogram.first, histogram.first + len(histogram.bounds) + 1), histogram.total]
    return used


def contents(layout: MetricsLayout) -> dict[str, object]:
    return vars(layout)


@pytest.mark.parametrize("history", [[ROUTES], [ROUTES, MORE]])
def test_no_cell_has_two_meanings_and_few_have_none(history):
    layout = MetricsLayout(history)
    used = cells_of(layout)
    assert len(used) == len(set(used))
    assert layout.size - 8 * len(history) < len(used) <= layout.size
    assert max(used) < layout.size


def test_what_ends_lies_below_what_is_offered():
    layout = MetricsLayout([ROUTES])
    last_outcome = max(r.outcomes for r in layout.routes.values()) + len(Place) * len(Reason) - 1
    offered = [r.offered for r in layout.routes.values()]
    assert last_outcome < min(offered)
    assert max(offered) < layout.opened


class TestGrowth:
    def test_what_is_known_keeps_its_cells(self):
        layout, before = MetricsLayout([ROUTES]), MetricsLayout([ROUTES])
        layout.extend(MORE)
        assert layout.size > before.size
        assert min(set(cells_of(layout)) - set(cells_of(before))) >= before.size
        assert set(cells_of(before)) < set(cells_of(layout))
        for name, worker in before.workers.items():
            assert layout.workers[name] == worker
        assert list(layout.routes["docs"].answers) == ["small", "large"]
        assert list(layout.routes) == ["-", "docs", "chat", "code", "mail"]

    def test_what_is_not_new_changes_nothing(self):
        layout = MetricsLayout([ROUTES])
        layout.extend({"docs": ["small"]})
        layout.extend({})
        assert contents(layout) == contents(MetricsLayout([ROUTES]))

    def test_says_beforehand_whether_there_is_room(self):
        layout, grown = MetricsLayout([ROUTES]), MetricsLayout([ROUTES, MORE])
        assert layout.fits(MORE, grown.size)
        assert not layout.fits(MORE, grown.size - 1)
        assert layout.fits(ROUTES, layout.size)
        assert contents(layout) == contents(MetricsLayout([ROUTES]))

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
            for route, workers in configuration.items():
                assert set(workers) <= set(layout.routes[route].answers)
                assert set(workers) <= set(layout.workers)

    def test_those_who_count_find_the_new_cells(self):
        layout = MetricsLayout([ROUTES])
        cells = [0] * MetricsLayout([ROUTES, MORE]).size
        metrics = ShardMetrics(layout, cells)
        layout.extend(MORE)
        end(open_ticket(metrics, "mail"), Reason.DONE, Place.STREAM)
        assert totals(layout, [cells])["completed"] == 1
        assert cells[layout.routes["mail"].offered] == 1


def test_a_copy_is_the_block_without_the_room_behind_it():
    layout = MetricsLayout([ROUTES, MORE])
    memory = SharedMemory.create(shards=1, block=layout.size + 64)
    for cell in range(layout.size + 64):
        memory.blocks[0][cell] = cell
    assert layout.copied(memory.blocks[0]) == list(range(layout.size))
    memory.close()


@pytest.mark.slow
def test_nothing_ends_before_it_was_offered_in_a_part_that_was_added_while_a_shard_writes():
    """Another process writes without pause, to routes of three parts: a copy is never one moment, and never absurd."""
    layout = MetricsLayout([ROUTES, MORE, {"late": ["small"]}])
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
