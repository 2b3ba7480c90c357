import asyncio

from pipeline.core.errors import BackendFailed, Cancelled, Overloaded
from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Reason
from pipeline.core.ticket import Ticket


def test_the_first_ending_wins():
    ended: list[Ticket] = []
    ticket = Ticket("r1", 1.0, ended.append)
    assert ticket.end(Reason.DONE, 2.0)
    assert not ticket.cancel(Reason.CLIENT_GONE, 3.0)
    assert ended == [ticket]
    assert ticket.ending is not None
    assert ticket.ending.outcome is Outcome.COMPLETED
    assert ticket.ended == 2.0


def test_an_error_says_under_what_it_counts():
    ticket = Ticket("r1", 0.0, lambda _: None)
    ticket.place = Place.STREAM
    ticket.fail(BackendFailed("gone", reason="backend_reset"), 1.0)
    assert ticket.ending is not None
    assert (ticket.ending.outcome, ticket.ending.reason, ticket.ending.place) == (
        Outcome.FAILED,
        Reason.BACKEND_RESET,
        Place.INFERENCE,
    )


def test_a_shed_counts_where_there_was_no_place():
    ticket = Ticket("r1", 0.0, lambda _: None)
    ticket.fail(Overloaded("full", place="rag", reason="queue_full", retry_after=1.0), 1.0)
    assert ticket.ending is not None
    assert (ticket.ending.outcome, ticket.ending.place) == (Outcome.SHED, Place.RAG)


def test_cancelling_carries_its_reason():
    ticket = Ticket("r1", 0.0, lambda _: None)
    ticket.cancel(Reason.SHUTDOWN, 1.0)
    assert ticket.ending is not None
    assert ticket.ending.reason is Reason.SHUTDOWN
    assert isinstance(ticket.ending.error, Cancelled)


async def test_ending_stops_the_request_s_tasks_but_not_the_one_that_ends_it():
    ticket = Ticket("r1", 0.0, lambda _: None)
    other = asyncio.create_task(asyncio.Event().wait())
    finished = asyncio.Event()

    async def ends() -> None:
        ticket.end(Reason.DONE, 1.0)
        await asyncio.sleep(0)  # would raise if it had been cancelled
        finished.set()

    ticket.tasks = [other, asyncio.create_task(ends())]
    await finished.wait()
    assert other.cancelled() or other.cancelling()


def test_every_reason_belongs_to_one_outcome():
    assert set(OUTCOME_OF) == set(Reason)
    assert OUTCOME_OF[Reason.SHARD_LOST] is Outcome.FAILED
    assert {OUTCOME_OF[reason] for reason in Reason} == set(Outcome)


def test_the_time_in_the_stage_where_it_ended_counts():
    ticket = Ticket("r1", 0.0, lambda _: None)
    ticket.place, ticket.since, ticket.waits = Place.INFERENCE, 1.0, False
    ticket.end(Reason.DEADLINE, 3.0)
    assert ticket.service[Place.INFERENCE] == 2.0
    waiting = Ticket("r2", 0.0, lambda _: None)
    waiting.place, waiting.since, waiting.waits = Place.RAG, 1.0, True
    waiting.end(Reason.DEADLINE, 1.5)
    assert (waiting.sojourn[Place.RAG], waiting.service[Place.RAG]) == (0.5, 0.0)
