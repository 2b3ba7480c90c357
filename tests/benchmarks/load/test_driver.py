"""The driver against real servers, in this process."""

import asyncio
import time
from random import Random

import pytest
from aiohttp import web

from benchmarks.load.accounting import compare
from benchmarks.load.arrivals import schedule
from benchmarks.load.driver import Driver
from benchmarks.load.mix import Mix
from benchmarks.load.scenario import Kind, Leave, Phase, Retries, Scenario
from benchmarks.load.wire import Wire
from tests.benchmarks.load.targets import after, refusing, serving, stalling

pytestmark = pytest.mark.alone  # what it sends at which moment is what is tested

RUN = "0123abcd"


def scenario(*phases: Phase, **fields) -> Scenario:
    return Scenario(phases=list(phases), **fields)


def driver(what: Scenario, wire: Wire, capacity: float | None = None, **fields) -> Driver:
    def arrivals(phase: Phase):
        return schedule(phase, capacity, Random(1), ())

    return Driver(what, wire, Mix(what, what.seed), model="m", run=RUN, arrivals=arrivals, **fields)


async def driven(what: Scenario, url: str, **fields) -> Driver:
    wire = Wire(url)
    try:
        run = driver(what, wire, **fields)
        await run.run()
        return run
    finally:
        await wire.aclose()


@pytest.mark.slow
async def test_a_target_that_stalls_for_a_second_is_not_flattered():
    """Of four seconds of arrivals, a quarter meets the stall, and waits for up to a second, evenly spread. Clients that
    wait for their answers meet it once each, and hide it."""
    async with serving(stalling(1.0, 2.0)) as url:
        open_loop = await driven(scenario(Phase(name="a", seconds=4, arrivals="constant", rate=200)), url)
    async with serving(stalling(1.0, 2.0)) as url:
        closed = await driven(scenario(Phase(name="a", seconds=4, arrivals="closed", clients=4)), url)
    latency = open_loop.phases[0].books.timings.latency
    assert latency.count == 800
    assert latency.percentile(0.5) < 0.1
    # A fifth of all is above 0.2 s, a tenth above 0.6 s: what 200 waiting requests a second look like.
    assert 0.4 < latency.percentile(0.9) < 0.9
    assert 0.85 < latency.percentile(0.99) < 1.5
    assert closed.phases[0].books.timings.latency.percentile(0.99) < 0.5  # the flattery that is to be seen here


@pytest.mark.slow
async def test_the_time_counts_from_when_a_request_should_have_been_sent():
    """A generator that is held up for half a second books the delay, and says that it was late."""

    async def held_up():
        await asyncio.sleep(0.5)
        time.sleep(0.5)

    async with serving(after(0.0)) as url:
        wire = Wire(url)
        run = driver(scenario(Phase(name="a", seconds=2, arrivals="constant", rate=100)), wire)
        _, _ = await asyncio.gather(run.run(), held_up())
        await wire.aclose()
    assert run.phases[0].books.timings.latency.percentile(0.99) > 0.4
    assert 0.4 < run.punctuality.lag.most < 1.5
    assert run.punctuality.late >= 40
    note = run.punctuality.note()
    assert note is not None
    assert "fell behind itself" in note
    lag = run.punctuality.result(run.clock(), 0, 0)
    assert len(lag.behind) == 1
    assert lag.behind[0][0] < 1.0


@pytest.mark.slow
async def test_every_request_ends_in_one_way():
    what = scenario(
        Phase(name="a", seconds=1, rate=200),
        requests=[
            Kind(name="patient", weight=2),
            Kind(name="impatient", deadline_ms=20),
            Kind(name="leaver", leave=Leave(share=1.0, after="sent")),
        ],
    )
    async with serving(after(0.1)) as url:
        run = await driven(what, url)
    ledger = run.phases[0]
    counts = ledger.books.counts
    kinds = {name: books.counts for name, books in ledger.kinds.items()}
    assert counts.offered == sum(each.offered for each in kinds.values()) > 100
    assert kinds["patient"].completed == kinds["patient"].offered
    assert kinds["impatient"].cancelled == kinds["impatient"].offered
    assert kinds["leaver"].left == kinds["leaver"].cancelled == kinds["leaver"].offered
    assert counts.completed + counts.cancelled == counts.offered
    assert set(ledger.gone) | set(ledger.completed) == set(range(counts.offered))
    assert run.attempts.sent == counts.offered


async def test_refusals_are_told_apart_and_tried_again_as_often_as_asked():
    what = scenario(Phase(name="a", seconds=0.2, arrivals="constant", rate=50), retries=Retries(max=2))
    headers = {
        "Retry-After": "1",
        "retry-after-ms": "10",
        "X-Headgate-Shed-Stage": "ingress",
        "X-Headgate-Shed-Reason": "full",
    }
    async with serving(refusing(503, headers)) as url:
        run = await driven(what, url)
    ledger = run.phases[0]
    assert ledger.books.counts.shed == ledger.books.counts.offered == 10
    assert ledger.attempts == 30
    assert ledger.retried == 20
    (refusal,) = ledger.refusals.values()
    assert (refusal.outcome, refusal.status, refusal.where, refusal.reason) == ("shed", 503, "door", "full")
    assert refusal.count == refusal.with_retry_after == 30


async def test_a_request_that_the_generator_loses_is_told():
    """As when its own code fails: nothing may look sound then."""
    what = scenario(Phase(name="a", seconds=0.2, arrivals="constant", rate=50))

    class Failing(Wire):
        async def ask(self, *given, **named):
            raise RuntimeError("planted")

    async with serving(after(0.0)) as url:
        run = driver(what, Failing(url))
        await run.run()
    counts = run.phases[0].books.counts
    assert counts.offered == 10
    assert not compare(counts, run.attempts, None).balanced
    assert "planted" in run.problems[0]


async def test_a_retry_that_runs_out_of_time_is_no_hang():
    what = scenario(
        Phase(name="a", seconds=0.1, arrivals="constant", rate=20), retries=Retries(max=1), hang_seconds=0.5
    )
    asked = set()

    async def handler(request):
        body = await request.read()
        if body in asked:
            await asyncio.sleep(30)
        asked.add(body)
        return web.json_response({}, status=503, headers={"retry-after-ms": "50"})

    async with serving(handler) as url:
        run = await driven(what, url)
    counts = run.phases[0].books.counts
    assert (counts.unanswered, counts.cancelled, counts.offered) == (0, 2, 2)


async def test_a_target_that_never_answers_is_a_hang():
    what = scenario(Phase(name="a", seconds=0.1, arrivals="constant", rate=50), hang_seconds=0.3)
    async with serving(after(30.0)) as url:
        run = await driven(what, url)
    assert run.phases[0].books.counts.unanswered == 5


async def test_stopping_books_what_is_in_flight_and_sends_no_more():
    what = scenario(Phase(name="a", seconds=60, arrivals="constant", rate=100), Phase(name="b", seconds=60, rate=1))
    async with serving(after(30.0)) as url:
        wire = Wire(url)
        run = driver(what, wire)
        going = asyncio.ensure_future(run.run())
        while run.in_flight < 10:
            await asyncio.sleep(0.01)
        run.stop("interrupted")
        await asyncio.wait_for(going, 5)
        await wire.aclose()
    assert run.ended == "interrupted"
    assert len(run.phases) == 1
    counts = run.phases[0].books.counts
    assert counts.offered == counts.cancelled >= 10
    assert run.in_flight == 0


async def test_what_would_be_too_much_at_once_is_not_sent():
    what = scenario(Phase(name="a", seconds=0.2, arrivals="constant", rate=100), max_in_flight=5)
    async with serving(after(0.5)) as url:
        run = await driven(what, url)
    counts = run.phases[0].books.counts
    assert (counts.completed, counts.unsent, counts.offered) == (5, 15, 20)
    assert run.refused_here == 15


async def test_no_more_than_max_requests_are_sent():
    what = scenario(Phase(name="a", seconds=0.3, arrivals="closed", clients=2), max_requests=7)
    async with serving(after(0.0)) as url:
        run = await driven(what, url)
    assert run.phases[0].books.counts.offered == 7
    assert run.limited


@pytest.mark.slow
async def test_a_target_that_is_lost_ends_the_run(monkeypatch):
    monkeypatch.setattr("benchmarks.load.driver.LOST_AFTER", 0.5)
    async with serving(after(0.0)) as url:
        pass
    run = await asyncio.wait_for(driven(scenario(Phase(name="a", seconds=30, rate=50)), url), 10)
    assert "no connection could be made" in run.ended
    counts = run.phases[0].books.counts
    assert counts.unreachable > 10
    assert counts.completed == 0
