import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.outcomes import Outcome
from pipeline.observe.books import endings, offered, still_open, unrouted
from pipeline.observe.layout import Counted, MetricsLayout
from pipeline.observe.ledger import Ledger, Living
from pipeline.observe.metrics import ShardGauges, ShardMetrics
from tests.observe.requests import COUNTED, complete, open_ticket

SHARDS = 2


class Daemon:
    """Two shards whose processes come and go, as the supervisor sees them."""

    def __init__(self, layout: MetricsLayout) -> None:
        self.layout = layout
        self.living: dict[int, Living] = {}  # by seat
        self.ledger = Ledger(layout, SHARDS, self.living.values)
        room = 2 * layout.size + 4096
        self.blocks = [memoryview(mmap.mmap(-1, room * 8)).cast("Q") for _ in range(SHARDS + 1)]

    def born(self, shard: int, *, works: bool = True) -> int:
        seat = min(set(range(len(self.blocks))) - self.living.keys())
        self.living[seat] = Living(shard, self.blocks[seat], works)
        return seat

    def work(self, seat: int, *, completed: int = 0, begun: int = 0, arrived: int = 0) -> None:
        metrics = ShardMetrics(self.layout, self.blocks[seat])
        for _ in range(completed):
            complete(metrics)
        for _ in range(begun):
            open_ticket(metrics, "docs")
        for _ in range(arrived):
            open_ticket(metrics, None)
        ShardGauges(self.layout, self.blocks[seat]).process(connections=7, lines_dropped=begun)

    def die(self, seat: int) -> int:
        shard, block, _ = self.living[seat]
        lost = self.ledger.retire(shard, block)
        del self.living[seat]
        return lost


@pytest.fixture
def daemon() -> Daemon:
    return Daemon(MetricsLayout([COUNTED]))


def test_what_a_dead_process_counted_stays_and_its_open_requests_are_lost(daemon):
    first, other = daemon.born(0), daemon.born(1)
    daemon.work(first, completed=3, begun=2, arrived=1)
    daemon.work(other, completed=1)
    assert daemon.die(first) == 3
    assert not any(daemon.blocks[first])
    expected = {outcome.value: 0 for outcome in Outcome} | {"offered": 7, "completed": 4, "failed": 3}
    assert daemon.ledger.totals() == expected
    daemon.work(daemon.born(0), completed=5)
    assert daemon.ledger.totals() == expected | {"offered": 12, "completed": 9}
    counted = [
        sum(offered(r, cells) for r in daemon.layout.routes.values()) for cells in daemon.ledger.shards().values()
    ]
    assert counted == [11, 1]


def test_gauges_of_the_dead_count_for_nothing(daemon):
    seat = daemon.born(0)
    daemon.work(seat)
    assert daemon.ledger.read().total[daemon.layout.connections] == 7
    daemon.die(seat)
    reading = daemon.ledger.read()
    assert [reading.total[cell] for cell in daemon.layout.gauges()] == [0] * len(daemon.layout.gauges())
    assert reading.blocks == [[0] * daemon.layout.size]


def test_a_shard_is_both_its_processes_while_one_takes_the_others_place(daemon):
    old, new = daemon.born(0, works=False), daemon.born(0)
    daemon.work(old, completed=2, begun=1)
    daemon.work(new, completed=3)
    reading = daemon.ledger.read()
    assert len(reading.blocks) == 1  # the wait of a queue that takes nothing any more is nobody's
    assert offered(daemon.layout.routes["docs"], reading.shards[0]) == 6
    assert daemon.ledger.totals()["completed"] == 5


def test_what_died_before_the_layout_grew_still_counts(daemon):
    seat = daemon.born(0)
    daemon.work(seat, completed=2)
    daemon.die(seat)
    daemon.layout.extend(Counted({"new": ["fresh"]}))
    seat = daemon.born(1)
    metrics = ShardMetrics(daemon.layout, daemon.blocks[seat])
    open_ticket(metrics, "new")
    assert offered(daemon.layout.routes["new"], daemon.ledger.read().total) == 1
    assert daemon.die(seat) == 1
    assert daemon.ledger.totals() == {outcome.value: 0 for outcome in Outcome} | {
        "offered": 3,
        "completed": 2,
        "failed": 1,
    }


EVENTS = st.one_of(
    st.tuples(st.just("work"), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("born"), st.integers(0, SHARDS - 1)),
    st.tuples(st.just("die"), st.integers(0, 2)),
)


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=25))
def test_no_counter_ever_goes_back_and_the_identity_holds(events):
    layout = MetricsLayout([COUNTED])
    daemon = Daemon(layout)
    counters = sorted(set(range(layout.size)) - set(layout.gauges()))
    before = daemon.ledger.read()
    for event in events:
        match event:
            case ("work", seat, completed, begun, arrived) if seat in daemon.living:
                daemon.work(seat, completed=completed, begun=begun, arrived=arrived)
            case ("born", shard) if len(daemon.living) <= SHARDS:
                daemon.born(shard)
            case ("die", seat) if seat in daemon.living:
                daemon.die(seat)
        after = daemon.ledger.read()
        for old, new in ((before.total, after.total), *((before.shards[s], after.shards[s]) for s in range(SHARDS))):
            assert all(new[cell] >= old[cell] for cell in counters)
        arrived_in_all = unrouted(layout, after.total)
        for route in layout.routes.values():
            ended = sum(number for _, _, number in endings(route, after.total))
            assert offered(route, after.total) == ended + still_open(route, after.total)
            arrived_in_all += offered(route, after.total)
        assert arrived_in_all == after.total[layout.opened]
        before = after
