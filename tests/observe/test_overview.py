"""What operators are shown of the counters."""

import mmap

import pytest

from pipeline.core.outcomes import Place, Reason
from pipeline.observe import overview
from pipeline.observe.layout import REASONS, Counted, MetricsLayout
from pipeline.observe.ledger import Ledger, Living


class Blocks:
    """Two shards; `up` says which of them do their work."""

    def __init__(self) -> None:
        self.layout = MetricsLayout([Counted({"docs": ["a", "b"]}, {"a": ["a1", "a2"]})])
        self.cells = [memoryview(mmap.mmap(-1, self.layout.size * 8)).cast("Q") for _ in range(2)]
        self.up = [0, 1]
        self.ledger = Ledger(self.layout, 2, lambda: [Living(shard, self.cells[shard], True) for shard in self.up])


@pytest.fixture
def blocks():
    return Blocks()


def test_a_shard_that_is_down_changes_no_wait_and_has_no_places(blocks):
    worker, stage = blocks.layout.workers["b"], blocks.layout.stages[Place.RAG]
    for cells in blocks.cells:
        cells[worker.allowed_wait] = 2_000_000_000
        cells[worker.standing] = 1
        cells[stage.capacity] = 512
    blocks.up = [1]
    blocks.ledger.retire(0, blocks.cells[0])
    figures = overview.workers(blocks.ledger)["b"]
    assert (figures.allowed_wait_s, figures.standing) == (2.0, True)
    shown = overview.stages(blocks.ledger)[0]
    assert (shown.capacity, shown.shards[0].capacity, shown.shards[1].capacity) == (512, 0, 512)


def test_a_replica_is_as_bad_as_the_shard_says_that_thinks_the_worst_of_it(blocks):
    one, two = blocks.layout.workers["a"].replicas.values()
    first, second = blocks.cells
    for cell, value in zip(one, [1, 1, 4, 0, 10, 1], strict=True):
        first[cell] = value
    for cell, value in zip(one, [3, 0, 2, 2_500_000_000, 20, 7], strict=True):
        second[cell] = value
    first[two.calls] = 3  # which it had before it was taken out
    figures = overview.workers(blocks.ledger)["a"]
    assert figures.replicas == [overview.ReplicaFigures("a1", "open", False, 6, 30, 8, 0.0)]
    blocks.up = [1]
    blocks.ledger.retire(0, first)
    figures = overview.workers(blocks.ledger)["a"]
    assert figures.replicas == [overview.ReplicaFigures("a1", "open", False, 2, 30, 8, 2.5)]


def test_with_no_shard_left_there_are_figures_all_the_same(blocks):
    blocks.up = []
    assert overview.workers(blocks.ledger)["a"].estimated_wait_s == 0.0
    assert set(overview.shards(blocks.ledger)) == {0, 1}


def test_what_a_dead_process_had_open_has_ended(blocks):
    layout, cells = blocks.layout, blocks.cells[0]
    route = layout.routes["docs"]
    cells[layout.opened] = cells[route.offered] = 5
    cells[route.outcomes + Place.STREAM * len(REASONS) + REASONS.index(Reason.DONE)] = 3
    before = overview.routes(blocks.ledger)["docs"]
    assert (before.offered, before.open, before.outcomes["completed"]) == (5, 2, 3)
    blocks.up = [1]
    blocks.ledger.retire(0, cells)
    after = overview.routes(blocks.ledger)["docs"]
    assert (after.offered, after.open, after.outcomes["failed"]) == (5, 0, 2)
    assert overview.shards(blocks.ledger)[0].requests == after
