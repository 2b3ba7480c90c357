"""Several workers behind one route: who serves whom, and what happens when they are weighed anew or drained."""

from collections import Counter
from math import sqrt
from typing import Any

import pytest

from pipeline.core.access import Caller
from pipeline.core.errors import ContextLength, Overloaded
from pipeline.core.outcomes import Outcome, Place, Priority, Reason
from pipeline.core.ticket import Ticket
from pipeline.wiring import Pipeline
from tests.flows import config, running
from tests.wiring.backends import Backends, ask, renew

SESSIONS = [f"conversation-{number}" for number in range(400)]
NOBODY = Caller("-")


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    return Backends(monkeypatch)


def weighed(*weights: float, drain: tuple[str, ...] = (), **workers: Any) -> dict[str, Any]:
    """A route `echo` to the workers a, b and so on; `workers` are keys of theirs."""
    names = "abcdef"[: len(weights)]
    return {
        "workers": [{"name": n, "kind": "echo", "drain": n in drain, **workers.get(n, {})} for n in names],
        "routes": [
            {"name": "echo", "workers": [{"worker": n, "weight": w} for n, w in zip(names, weights, strict=True)]}
        ],
        "stages": {"inference": {"concurrency": 1000}},
    }


async def served(pipeline: Pipeline, sessions: list[str | None]) -> list[str]:
    """The worker of each, by what it answered."""
    asked = [ask(pipeline, session_id=session) for session in sessions]
    answers = [(await sink.done()).split()[0] for _, sink in asked]
    assert answers == [ticket.worker for ticket, _ in asked]
    return answers


async def test_sessions_stay_with_a_worker_and_fall_to_them_by_weight(backends):
    async with running(config(**weighed(3.0, 1.0))) as (pipeline, _):
        first = await served(pipeline, SESSIONS)
        assert await served(pipeline, SESSIONS) == first
        assert abs(first.count("b") - 100) < 4 * sqrt(400 * 0.25 * 0.75)


async def test_those_without_a_session_are_spread_by_weight_and_the_same_way_every_time(backends):
    runs = []
    for _ in range(2):
        async with running(config(**weighed(1.0, 3.0))) as (pipeline, _):
            runs.append(await served(pipeline, [None] * 400))
    assert runs[0] == runs[1]
    assert abs(runs[0].count("a") - 100) < 4 * sqrt(400 * 0.25 * 0.75)


async def test_new_weights_move_only_the_sessions_that_must(backends):
    async with running(config(**weighed(1.0, 1.0, 1.0))) as (pipeline, _):
        before = await served(pipeline, SESSIONS)
        renew(pipeline, **weighed(1.0, 2.0, 1.0))
        after = await served(pipeline, SESSIONS)
        moved = [new for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {"b"}
        assert 30 < len(moved) < 110  # a sixth of 400
        renew(pipeline, **weighed(1.0, 1.0, 1.0))
        assert await served(pipeline, SESSIONS) == before


@pytest.mark.parametrize("weights", [{"drain": ("b",)}, {"zero": True}])
async def test_who_drains_or_weighs_nothing_gets_no_new_requests_and_finishes_the_others(backends, weights):
    backends.hold("b")
    async with running(config(**weighed(1.0, 1.0))) as (pipeline, _):
        asked = [ask(pipeline, session_id=session) for session in SESSIONS[:100]]
        await backends.until_called("b", 30)
        renew(pipeline, **(weighed(1.0, 0.0) if "zero" in weights else weighed(1.0, 1.0, drain=("b",))))
        assert set(await served(pipeline, SESSIONS[:100])) == {"a"}
        backends.let_go("b")
        counts = Counter([(await sink.done()).split()[0] for _, sink in asked])
        assert counts["a"] + counts["b"] == 100


async def test_where_all_drain_requests_are_shed_and_told_when_to_come_back(backends):
    async with running(config(**weighed(1.0, 1.0, drain=("a", "b")))) as (pipeline, _):
        ticket, sink = ask(pipeline, session_id="s")
        with pytest.raises(Overloaded, match="take no new requests") as told:
            await sink.done()
        assert ending(ticket) == (Outcome.SHED, Reason.DRAINING, Place.INGRESS)
        assert 1.0 <= (told.value.retry_after or 0.0) <= 60.0
        assert pipeline.ingress.gate_closed
        refused = pipeline.ingress.gate("echo", Priority.NORMAL, None, NOBODY)
        assert refused is not None
        assert (refused.reason, refused.place) == (Reason.DRAINING, "ingress")
        pipeline.ingress.count_gated(refused, 0.0)
        assert pipeline.ingress.gate("other", Priority.NORMAL, None, NOBODY) is None
        renew(pipeline, **weighed(1.0, 1.0, drain=("a",)))
        assert pipeline.ingress.gate("echo", Priority.NORMAL, None, NOBODY) is None
        assert await served(pipeline, ["s"]) == ["b"]


async def test_each_worker_has_its_own_context(backends):
    narrow = {"context_tokens": 64, "answer_tokens": 16}
    async with running(config(**weighed(1.0, 1.0, b=narrow))) as (pipeline, _):
        workers = dict(zip(SESSIONS, await served(pipeline, SESSIONS), strict=True))
        for session in SESSIONS[:20]:
            _, sink = ask(pipeline, session_id=session, text="word " * 100)
            if workers[session] == "a":
                assert await sink.done() == "a 0"
            else:
                with pytest.raises(ContextLength, match="64 tokens"):
                    await sink.done()


async def test_the_head_gate_is_closed_only_where_every_possible_worker_would_refuse(backends):
    backends.hold("a", "b")
    sections = weighed(1.0, 1.0) | {"stages": {"inference": {"concurrency": 1}}, "admission": {"wait_budget_ms": 50}}
    async with running(config(**sections)) as (pipeline, _):
        for name in "ab":
            for _ in range(30):
                pipeline.flow.lanes[name].typical.ended(1.0, 1.0, 1, 0.0, 1)
        gate = pipeline.ingress.gate
        home = {
            name: next(s for s in SESSIONS if pipeline.ingress._doorways["echo"].possible(s)[0].lane.name == name)
            for name in "ab"
        }
        first = ask(pipeline, session_id=home["a"])
        assert gate("echo", Priority.NORMAL, home["a"], NOBODY) is not None
        assert gate("echo", Priority.NORMAL, home["b"], NOBODY) is None
        assert gate("echo", Priority.NORMAL, None, NOBODY) is None
        assert gate(None, Priority.NORMAL, None, NOBODY) is None
        refused, sink = ask(pipeline, session_id=home["a"])
        assert ending(refused)[1] is Reason.WAIT_BUDGET
        with pytest.raises(Overloaded):
            await sink.done()
        second = ask(pipeline, session_id=home["b"])
        for route, session in (("echo", home["b"]), ("echo", None), (None, None)):
            assert gate(route, Priority.NORMAL, session, NOBODY) is not None
        backends.let_go("a")
        backends.let_go("b")
        assert [await sink.done() for _, sink in (first, second)] == ["a 0", "b 0"]


async def test_a_stuck_worker_keeps_only_its_own_sessions_waiting(backends):
    backends.hold("a")
    async with running(config(**weighed(1.0, 1.0) | {"stages": {"inference": {"concurrency": 1}}})) as (pipeline, _):
        asked = [ask(pipeline, session_id=session) for session in SESSIONS[:40]]
        for ticket, sink in asked:
            if ticket.lane.name == "b":
                assert await sink.done() == "b 0"
        assert sum(ticket.ending is None for ticket, _ in asked) > 5
        backends.let_go("a")
        for _, sink in asked:
            await sink.done()


def ending(ticket: Ticket) -> tuple[Outcome, Reason, Place]:
    assert ticket.ending is not None
    return ticket.ending.outcome, ticket.ending.reason, ticket.ending.place
