from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.access import ANONYMOUS
from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Priority, Reason
from pipeline.core.queue import QueueStatistics
from pipeline.core.ticket import Ticket
from pipeline.observe.books import book_lost, by_class, endings, offered, still_open, totals, unrouted
from pipeline.observe.layout import INTER_TOKEN_BOUNDS, QUEUE_BOUNDS, STEPS, UNROUTED, Counted, MetricsLayout
from pipeline.observe.metrics import ShardGauges, ShardMetrics, observe, observe_all
from pipeline.policy.breaker import BreakerRules
from pipeline.policy.pool import Pool, PoolRules, Result
from tests.observe.requests import COUNTED, complete, end, open_ticket, refusal
from workers.base import Usage


@pytest.fixture
def layout() -> MetricsLayout:
    return MetricsLayout([COUNTED])


@pytest.fixture
def cells(layout):
    return [0] * layout.size


@pytest.fixture
def metrics(layout, cells) -> ShardMetrics:
    return ShardMetrics(layout, cells)


def ended(layout, cells, route):
    return {(place, reason): number for place, reason, number in endings(layout.routes[route], cells)}


class TestRequests:
    def test_follows_a_request_from_unrouted_over_open_to_ended(self, layout, cells, metrics):
        ticket = Ticket("r", 0.0, metrics.after_end)
        metrics.after_open(ticket)
        assert (unrouted(layout, cells), still_open(layout.routes["docs"], cells)) == (1, 0)
        ticket.route = "docs"
        metrics.after_route(ticket)
        assert (unrouted(layout, cells), still_open(layout.routes["docs"], cells)) == (0, 1)
        end(ticket, Reason.DEADLINE, Place.INFERENCE)
        assert (unrouted(layout, cells), still_open(layout.routes["docs"], cells)) == (0, 0)
        assert ended(layout, cells, "docs") == {(Place.INFERENCE, Reason.DEADLINE): 1}

    def test_a_request_that_was_never_routed_is_offered_when_it_ends(self, layout, cells, metrics):
        ticket = open_ticket(metrics, None)
        end(ticket, Reason.INVALID, Place.INGRESS)
        assert cells[layout.routes[UNROUTED].offered] == 1
        assert ended(layout, cells, UNROUTED) == {(Place.INGRESS, Reason.INVALID): 1}
        assert unrouted(layout, cells) == 0

    def test_sums_up_over_routes_and_blocks(self, layout, cells, metrics):
        other = [0] * layout.size
        complete(metrics, "docs")
        complete(metrics, "chat")
        end(open_ticket(ShardMetrics(layout, other), "code"), Reason.QUEUE_FULL, Place.INFERENCE)
        summed = totals(layout, [cells, other])
        assert summed["offered"] == 3
        assert summed["completed"] == 2
        assert summed["shed"] == 1
        assert sum(summed.values()) == 6


class TestGated:
    def test_counts_as_offered_and_shed_under_no_route(self, layout, cells, metrics):
        metrics.after_gate(refusal(Reason.WAIT_BUDGET), 1.0, 1.001)
        metrics.after_gate(refusal(Reason.QUEUE_FULL), 1.0, 1.001, "req-9")
        end(open_ticket(metrics, None), Reason.QUEUE_FULL, Place.INGRESS)
        nowhere = layout.routes[UNROUTED]
        assert ended(layout, cells, UNROUTED) == {
            (Place.INGRESS, Reason.WAIT_BUDGET): 1,
            (Place.INGRESS, Reason.QUEUE_FULL): 2,
        }
        assert offered(nowhere, cells) == 3
        assert (still_open(nowhere, cells), unrouted(layout, cells)) == (0, 0)
        assert totals(layout, [cells]) | {"offered": 3, "shed": 3} == totals(layout, [cells])

    def test_is_a_single_write(self, layout):
        cells = Mortal([0] * layout.size)
        cells.lives = 1
        ShardMetrics(layout, cells).after_gate(refusal(), 1.0, 1.001)
        assert cells.lives == 0

    def test_outlives_its_shard_and_is_not_lost_with_it(self, layout, cells, metrics):
        metrics.after_gate(refusal(), 1.0, 1.001)
        open_ticket(metrics, None)
        assert book_lost(layout, cells) == 1
        assert ended(layout, cells, UNROUTED) == {
            (Place.INGRESS, Reason.WAIT_BUDGET): 1,
            (None, Reason.SHARD_LOST): 1,
        }


class TestClasses:
    def counted(self, layout, cells) -> dict[tuple[str, Outcome], int]:
        return {(name, outcome): number for name, outcome, number in by_class(layout, cells) if number}

    @pytest.mark.parametrize("priority", Priority)
    @pytest.mark.parametrize("reason", [Reason.DONE, Reason.WAIT_BUDGET, Reason.DEADLINE, Reason.BACKEND_RESET])
    def test_each_ending_counts_under_its_class(self, layout, cells, metrics, priority, reason):
        ticket = open_ticket(metrics)
        ticket.caller, ticket.priority = ANONYMOUS, priority
        end(ticket, reason, Place.INGRESS)
        assert self.counted(layout, cells) == {(priority.label, OUTCOME_OF[reason]): 1}

    def test_what_ended_before_its_caller_was_known_has_none(self, layout, cells, metrics):
        end(open_ticket(metrics, None), Reason.UNAUTHORIZED, Place.INGRESS)
        metrics.after_gate(refusal(), 1.0, 1.001)
        assert self.counted(layout, cells) == {("-", Outcome.REJECTED): 1, ("-", Outcome.SHED): 1}

    def test_what_was_let_in_without_a_caller_counts_as_normal(self, layout, cells, metrics):
        complete(metrics)
        assert self.counted(layout, cells) == {("normal", Outcome.COMPLETED): 1}


class TestObservations:
    def test_a_completed_request_is_seen_in_all_five_stages(self, layout, cells, metrics):
        complete(metrics)
        for stage in layout.stages.values():
            assert cells[stage.sojourn.first + QUEUE_BOUNDS.index(0.001)] == 1
            assert cells[stage.sojourn.total] == 1_000_000
            assert cells[stage.service.total] == 3_000_000

    def test_a_stage_that_was_not_entered_is_not_observed(self, layout, cells, metrics):
        ticket = open_ticket(metrics)
        ticket.sojourn[Place.RAG] = 0.5
        end(ticket, Reason.DEADLINE, Place.RAG)
        rag, assemble = layout.stages[Place.RAG], layout.stages[Place.ASSEMBLE]
        assert sum(cells[rag.sojourn.first : rag.sojourn.total]) == 1
        assert sum(cells[assemble.sojourn.first : assemble.sojourn.total]) == 0

    @pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.0001, 0), (0.00011, 1), (30.0, 16), (31.0, 17)])
    def test_a_bound_belongs_to_its_bucket(self, layout, cells, seconds, bucket):
        histogram = layout.stages[Place.RAG].sojourn
        observe(cells, histogram, seconds)
        assert cells[histogram.first + bucket] == 1
        assert cells[histogram.total] == int(seconds * 1e9)

    def test_tokens_and_first_token_are_booked_under_route_and_worker(self, layout, cells, metrics):
        complete(metrics, "code")
        answer = layout.routes["code"].answers["large"]
        assert (cells[answer.prompt_tokens], cells[answer.completion_tokens]) == (10, 4)
        assert cells[answer.first_token.total] == 20_000_000

    def test_each_worker_of_a_route_has_its_own(self):
        layout = MetricsLayout([Counted({"docs": ["small", "large"]})])
        cells = [0] * layout.size
        metrics = ShardMetrics(layout, cells)
        complete(metrics)
        ticket = open_ticket(metrics)
        ticket.worker, ticket.chunks, ticket.usage = "large", 7, Usage(1, 2)
        end(ticket, Reason.DONE, Place.STREAM)
        answers = layout.routes["docs"].answers
        assert [cells[answers[name].deltas] for name in ("small", "large")] == [3, 7]
        assert [cells[answers[name].prompt_tokens] for name in ("small", "large")] == [10, 1]

    @pytest.mark.parametrize(("claimed", "counted"), [(-5, 0), (10**30, 1 << 32)])
    def test_a_backend_may_claim_any_number_of_tokens(self, layout, claimed, counted):
        cells = memoryview(bytearray(layout.size * 8)).cast("Q")
        metrics = ShardMetrics(layout, cells)
        ticket = open_ticket(metrics)
        ticket.worker, ticket.usage = "small", Usage(claimed, claimed)
        end(ticket, Reason.DONE, Place.STREAM)
        assert cells[layout.routes["docs"].answers["small"].prompt_tokens] == counted

    def test_what_a_request_got_less_of_is_counted_under_its_route(self, layout, cells, metrics):
        for reduced in [("passages=2", "max_tokens=256"), ("max_tokens=64",), ()]:
            ticket = open_ticket(metrics)
            ticket.reduced = reduced
            end(ticket, Reason.DONE, Place.STREAM)
        first = layout.routes["docs"].reduced
        assert dict(zip(STEPS, cells[first : first + len(STEPS)], strict=True)) == {
            "fewer_passages": 1,
            "shorter_answer": 2,
        }

    @given(
        st.lists(
            st.floats(0.0, 100.0)
            | st.sampled_from(INTER_TOKEN_BOUNDS)
            | st.sampled_from([nextafter(bound, inf) for bound in INTER_TOKEN_BOUNDS]),
            max_size=70,
        )
    )
    def test_many_at_once_are_booked_as_one_by_one(self, gaps):
        layout = MetricsLayout([COUNTED])
        histogram = layout.workers["small"].inter_token
        together, alone = [0] * layout.size, [0] * layout.size
        observe_all(together, histogram, list(gaps))
        for gap in gaps:
            observe(alone, histogram, gap)
        assert together[histogram.total] == pytest.approx(alone[histogram.total], abs=len(gaps) + 1)
        together[histogram.total] = alone[histogram.total]
        assert together == alone

    def test_deltas_are_counted_once_and_their_gaps_observed(self, layout, cells, metrics):
        ticket = open_ticket(metrics)
        ticket.worker = "small"
        ticket.chunks = 5
        ticket.gaps = [0.02] * 4
        metrics.after_deltas(ticket)
        metrics.after_deltas(ticket)  # nothing new
        gaps = layout.workers["small"].inter_token
        assert cells[layout.routes["docs"].answers["small"].deltas] == 5
        assert cells[gaps.first + gaps.bounds.index(0.02)] == 4
        assert cells[gaps.total] == 80_000_000


class TestGauges:
    def test_of_a_dead_shards_queues_only_what_was_counted_is_left(self, layout, cells):
        statistics = QueueStatistics(depth=3, capacity=8, reserved=0, oldest=0.1, offered=10, taken=6, shed=1)
        ShardGauges(layout, cells).stage(Place.RAG, statistics, 2)
        rag = layout.stages[Place.RAG]
        assert [cells[index] for index in rag[:6]] == [3, 8, 2, 10, 6, 1]
        book_lost(layout, cells)
        assert [cells[index] for index in rag[:6]] == [0, 0, 0, 10, 6, 1]

    def test_a_worker_shows_its_limit_and_what_waits_for_it(self, layout, cells):
        asked: list[tuple[Priority, float]] = []
        ShardGauges(layout, cells).worker("small", Busy(asked), 7.0)
        w = layout.workers["small"]
        assert (cells[w.limit], cells[w.inflight], cells[w.standing], cells[w.pushed_back]) == (9, 8, 1, 3)
        assert cells[w.waiting : w.waiting + len(Priority)] == [0, 1, 20, 300]
        assert cells[w.estimated_wait] == 250_000_000
        assert cells[w.allowed_wait] == 400_000_000
        assert asked == [(Priority.NORMAL, 7.0)]
        assert cells[layout.workers["large"].limit] == 0

    @pytest.mark.parametrize(("estimate", "shown"), [(inf, 10**15), (-1e-9, 0)])
    def test_no_estimate_is_too_odd_for_a_cell(self, layout, estimate, shown):
        cells = memoryview(bytearray(layout.size * 8)).cast("Q")
        busy = Busy([])
        busy.estimate = estimate
        ShardGauges(layout, cells).worker("small", busy, 7.0)
        assert cells[layout.workers["small"].estimated_wait] == shown

    def test_a_worker_that_no_route_uses_is_not_shown(self, layout, cells):
        ShardGauges(layout, cells).worker("spare", Busy([]), 7.0)
        assert not any(cells)

    def test_only_what_was_counted_of_a_worker_outlives_its_shard(self, layout, cells):
        ShardGauges(layout, cells).worker("small", Busy([]), 7.0)
        book_lost(layout, cells)
        w = layout.workers["small"]
        assert [cells[index] for index in range(w.inflight, w.inter_token.first)] == [0] * 9 + [3, 0, 0]

    def test_a_worker_that_is_gone_does_nothing_and_its_counts_stay(self, layout, cells):
        gauges = ShardGauges(layout, cells)
        gauges.workers({"small": Busy([]), "large": Busy([])}, 7.0)
        gauges.workers({"large": Busy([])}, 8.0)
        small, large = layout.workers["small"], layout.workers["large"]
        assert not any(cells[index] for index in small.gauges())
        assert (cells[small.pushed_back], cells[large.pushed_back], cells[large.inflight]) == (3, 3, 8)
        gauges.workers({"small": Busy([]), "large": Busy([])}, 9.0)  # a new lane, which counts from zero
        assert (cells[small.pushed_back], cells[large.pushed_back], cells[small.inflight]) == (6, 3, 8)


class TestReplicas:
    def replica(self, layout: MetricsLayout, cells, name: str) -> dict[str, int]:
        where = layout.workers["small"].replicas[name]
        return {field: cells[cell] for field, cell in where._asdict().items()}

    def test_each_shows_its_circuit_and_what_it_did(self, layout, cells):
        gauges, busy = ShardGauges(layout, cells), Busy([])
        busy.pool = pool = small_pool()
        fail(pool, 0, 7.0)
        pool.choose(None, 7.0)
        pool.retries, pool.fallbacks = 2, 5
        gauges.worker("small", busy, 7.25)
        first, second = (self.replica(layout, cells, name) for name in ("s1:8000", "s2:8000"))
        assert first == {"state": 3, "healthy": 1, "inflight": 0, "reopens": 750_000_000, "calls": 1, "failures": 1}
        assert second == {"state": 1, "healthy": 1, "inflight": 1, "reopens": 0, "calls": 1, "failures": 0}
        w = layout.workers["small"]
        assert (cells[w.retries], cells[w.fallbacks]) == (2, 5)
        pool.looked(1, ok=False, now=8.0)
        pool.choose(None, 8.0, avoid={1})
        gauges.worker("small", busy, 8.0)
        first, second = (self.replica(layout, cells, name) for name in ("s1:8000", "s2:8000"))
        assert (first["state"], first["reopens"], first["calls"]) == (2, 100_000_000, 2)
        assert (second["state"], second["healthy"], second["calls"]) == (1, 0, 1)
        assert (cells[w.retries], cells[w.fallbacks]) == (2, 5)

    def test_one_that_is_gone_shows_nothing_and_its_counts_stay(self, layout, cells):
        gauges, busy = ShardGauges(layout, cells), Busy([])
        busy.pool = pool = small_pool()
        fail(pool, 0, 7.0)
        gauges.workers({"small": busy}, 7.0)
        pool.renew(["s2:8000", "new:8000"], pool.rules)
        pool.choose(None, 7.0)
        gauges.workers({"small": busy}, 8.0)
        assert self.replica(layout, cells, "s1:8000") == {
            "state": 0, "healthy": 0, "inflight": 0, "reopens": 0, "calls": 1, "failures": 1,
        }  # fmt: skip
        pool.renew(["s1:8000"], pool.rules)
        fail(pool, 0, 9.0)
        gauges.workers({"small": busy}, 9.0)
        assert self.replica(layout, cells, "s1:8000")["failures"] == 2
        gauges.workers({}, 10.0)
        busy.pool = small_pool()
        fail(busy.pool, 0, 10.0)
        gauges.workers({"small": busy}, 10.0)  # another pool, which counts from zero
        assert self.replica(layout, cells, "s1:8000")["failures"] == 3
        book_lost(layout, cells)
        assert not any(self.replica(layout, cells, "s1:8000")[field] for field in ("state", "healthy", "reopens"))
        assert self.replica(layout, cells, "s1:8000")["calls"] == 3


def small_pool() -> Pool:
    return Pool(["s1:8000", "s2:8000"], PoolRules(affinity=True, concurrency=None, slow_start=0.0, breaker=_LONE))


def fail(pool: Pool, index: int, now: float) -> None:
    """A call of the replica fails, and its circuit opens."""
    attempt = pool.choose(None, now, {0, 1} - {index})
    assert attempt is not None
    assert attempt.index == index
    pool.ended(attempt, now, Result.FAULT)


_LONE = BreakerRules(failures=1)


class Busy:
    """A worker's lane under load."""

    limit = 9
    inflight = 8
    waiting = (0, 1, 20, 300)
    standing = True
    pushed_back = 3
    pool: Pool | None = None
    allowed_wait = 0.4
    estimate = 0.25

    def __init__(self, asked: list[tuple[Priority, float]]) -> None:
        self._asked = asked

    def estimated_wait(self, priority: Priority, now: float) -> float:
        self._asked.append((priority, now))
        return self.estimate


class Killed(BaseException):
    """The process ends here."""


class Mortal(list):
    """Cells whose process is killed before its nth write."""

    lives: float = float("inf")

    def __setitem__(self, index, value):
        if self.lives <= 0:
            raise Killed
        self.lives -= 1
        super().__setitem__(index, value)


def busy_minute(metrics) -> list[Ticket]:
    """Requests that end in every way, some not at all. Returns those that arrived; the killed one is the last."""
    arrived: list[Ticket] = []

    def arrive(route):
        ticket = Ticket("r", 0.0, metrics.after_end)
        metrics.after_open(ticket)
        arrived.append(ticket)
        if route is not None:
            ticket.route = route
            metrics.after_route(ticket)
        return ticket

    try:
        arrive("docs")
        arrive(None)
        end(arrive(None), Reason.INVALID, Place.INGRESS)
        complete(metrics, "chat")
        arrived.append(arrived[-1])  # the completed one
        metrics.after_gate(refusal(), 0.0, 1.0)
        end(arrive("code"), Reason.QUEUE_FULL, Place.INFERENCE)
        end(arrive("docs"), Reason.BACKEND_RESET, Place.STREAM)
        arrive("code")
    except Killed:
        pass
    return arrived


class TestLoss:
    @pytest.mark.parametrize("writes", range(80))
    def test_the_books_balance_wherever_the_shard_is_killed(self, layout, writes):
        cells = Mortal([0] * layout.size)
        cells.lives = writes
        busy_minute(ShardMetrics(layout, cells))
        cells.lives = float("inf")
        arrived = cells[layout.opened] + sum(cells[index] for index in layout.routes[UNROUTED].gated)

        book_lost(layout, cells)

        assert unrouted(layout, cells) == 0
        for route in layout.routes.values():
            assert still_open(route, cells) == 0
            assert all(number > 0 for _, _, number in endings(route, cells))
        summed = totals(layout, [cells])
        assert summed.pop("offered") == arrived == sum(summed.values())

    def test_open_requests_are_booked_as_lost_once(self, layout, cells, metrics):
        open_ticket(metrics, "docs")
        open_ticket(metrics, None)
        complete(metrics, "docs")
        assert book_lost(layout, cells) == 2
        assert ended(layout, cells, "docs") == {(Place.STREAM, Reason.DONE): 1, (None, Reason.SHARD_LOST): 1}
        assert ended(layout, cells, UNROUTED) == {(None, Reason.SHARD_LOST): 1}
        assert book_lost(layout, cells) == 0
