import asyncio
import math
from contextlib import aclosing

import msgspec
import pytest

from config.schema import EchoWorker
from tests.workers.helpers import ask, told
from workers.base import EmbeddingRequest, EmbeddingWorker
from workers.echo import Echo
from workers.errors import WorkerError, WorkerErrorKind


def echo(**fields) -> Echo:
    return Echo(msgspec.convert({"kind": "echo", "name": "w", **fields}, EchoWorker))


class Time:
    """A clock that sleeping moves, by a little more than was asked for, as real ones do."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 100.0
        self.late = late

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late
        await asyncio.sleep(0)


def paced(time: Time, **fields) -> Echo:
    return Echo(
        msgspec.convert({"kind": "echo", "name": "w", **fields}, EchoWorker), clock=time.clock, sleep=time.sleep
    )


async def test_a_streamed_answer_comes_a_word_at_a_time():
    answer = await told(echo(), ask("to be  or not"))
    assert [[delta.text for delta in batch.deltas] for batch in answer.batches] == [["to "], ["be  "], ["or "], ["not"]]
    assert answer.reasons == {0: ["stop"]}


async def test_an_answer_that_is_not_streamed_comes_at_once_without_a_tick():
    generation = echo().generate(ask("to be or not", stream=False))
    with pytest.raises(StopIteration) as stopped:
        generation.__anext__().send(None)  # would yield a future if it waited for anything
    (delta,) = stopped.value.value.deltas
    assert (delta.text, delta.finish_reason) == ("to be or not", "stop")


async def test_other_work_runs_between_batches():
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async with aclosing(echo().generate(ask("a b c d"))) as batches:
        seen = [ticks async for _ in batches]
    ticking.cancel()
    assert seen == [seen[0] + at for at in range(4)]


async def test_tokens_per_batch():
    answer = await told(echo(tokens_per_batch=2), ask("a b c d e"))
    assert [len(batch.deltas) for batch in answer.batches] == [2, 2, 1]
    assert answer.text == "a b c d e"
    assert answer.reasons == {0: ["stop"]}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("said", "tokens", "text"), [("a b c", 2, "a b "), ("a b", 5, "a b a b a "), (" ", 2, "echo echo ")]
)
async def test_tokens_sets_the_length_of_every_answer(stream, said, tokens, text):
    answer = await told(echo(tokens=tokens), ask(said, stream=stream))
    assert answer.text == text
    assert answer.usages[0].completion_tokens == tokens


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_counts_words(stream):
    answer = await told(echo(), ask("one two three", stream=stream, max_tokens=2))
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in answer.usages] == [(3, 2)]
    assert answer.reasons == {0: ["length"]}


async def test_an_empty_message_is_answered():
    answer = await told(echo(), ask(""))
    assert (answer.text, answer.reasons) == ("", {0: ["stop"]})


async def test_the_pace_does_not_drift():
    time = Time(late=0.004)
    worker = paced(time, first_token_ms=200, tokens_per_s=100)
    async with aclosing(worker.generate(ask(" ".join("abcdefghij")))) as batches:
        times = [time.now - 100 async for _ in batches]
    assert times == pytest.approx([0.2 + at * 0.01 + 0.004 for at in range(10)])


async def test_a_consumer_that_comes_late_gets_what_is_due_at_once():
    time = Time()
    times = []
    async with aclosing(paced(time, tokens_per_s=10).generate(ask("a b c d e f"))) as batches:
        async for _ in batches:
            times.append(time.now - 100)
            if len(times) == 1:
                time.now += 0.35
    assert times == pytest.approx([0, 0.35, 0.35, 0.35, 0.4, 0.5])


async def test_without_streaming_the_answer_comes_when_its_last_token_is_due():
    time = Time()
    answer = await told(paced(time, first_token_ms=500, tokens_per_s=10), ask("a b c d", stream=False))
    assert time.now - 100 == pytest.approx(0.8)
    assert len(answer.batches) == 1


async def failing(worker: Echo, requests: int) -> list[bool]:
    answers = await asyncio.gather(*[told(worker, ask()) for _ in range(requests)], return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(error, WorkerError) for error in errors)
    assert {(error.kind, error.retryable) for error in errors} <= {(WorkerErrorKind.INJECTED, True)}
    return [isinstance(answer, WorkerError) for answer in answers]


async def test_failures_follow_the_seed():
    first = await failing(echo(failure_rate=0.3, seed=7), 300)
    assert first == await failing(echo(failure_rate=0.3, seed=7), 300)
    assert first != await failing(echo(failure_rate=0.3, seed=8), 300)
    assert 60 < sum(first) < 120
    assert all(await failing(echo(failure_rate=1.0), 20))
    assert not any(await failing(echo(failure_rate=0.0), 20))


@pytest.mark.parametrize("stream", [True, False])
async def test_capacity_bounds_the_answers_at_once(stream):
    gate = asyncio.Event()

    async def sleep(_: float) -> None:
        await gate.wait()

    worker = Echo(
        msgspec.convert({"kind": "echo", "name": "w", "capacity": 2, "first_token_ms": 1}, EchoWorker), sleep=sleep
    )
    answers = [asyncio.create_task(told(worker, ask(stream=stream))) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert worker._places._value == 0
    gate.set()
    assert [answer.text for answer in await asyncio.gather(*answers)] == ["hello there you"] * 5
    assert worker._places._value == 2


async def test_a_place_comes_back_however_its_answer_ends():
    worker = echo(capacity=1, first_token_ms=60_000)
    holder = asyncio.create_task(told(worker, ask()))
    waiters = [asyncio.create_task(told(worker, ask())) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()  # while it waits for a place
    await asyncio.sleep(0)
    holder.cancel()  # while it waits for its first token
    await asyncio.sleep(0)
    waiters[1].cancel()  # in the very tick in which it may get the place
    waiters[2].cancel()
    await asyncio.gather(holder, *waiters, return_exceptions=True)
    assert worker._places._value == 1

    quick = echo(capacity=1)
    async with aclosing(quick.generate(ask())) as batches:
        await anext(batches)
        assert quick._places._value == 0
    assert quick._places._value == 1  # closed after the first batch


async def test_it_embeds_by_words():
    worker = echo()
    assert isinstance(worker, EmbeddingWorker)
    asked = EmbeddingRequest("r", "m", ("full queues shed", "full queues shed", "a tide table", (1, 2, 3)))
    answer = await worker.embed(asked)
    first, again, other, tokens = answer.vectors
    assert first == again != other
    assert len(tokens) == len(first) == 384
    assert all(math.hypot(*vector) == pytest.approx(1) for vector in answer.vectors)
    assert answer.usage.prompt_tokens == 3 + 3 + 3 + 3
    assert (await echo().embed(asked)).vectors == answer.vectors


@pytest.mark.parametrize("length", [1, 2, 50, 384])
async def test_its_vectors_may_be_shorter(length):
    vector = (await echo().embed(EmbeddingRequest("r", "m", ("full queues shed",), length))).vectors[0]
    assert len(vector) == length
    assert math.hypot(*vector) == pytest.approx(1)


async def test_its_vectors_are_never_longer():
    with pytest.raises(WorkerError, match="384 dimensions, but 385") as raised:
        await echo().embed(EmbeddingRequest("r", "m", ("a",), 385))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST


async def test_embedding_fails_and_waits_as_generating_does():
    time = Time()
    with pytest.raises(WorkerError) as raised:
        await paced(time, failure_rate=1.0).embed(EmbeddingRequest("r", "m", ("a",)))
    assert raised.value.kind is WorkerErrorKind.INJECTED
    await paced(time, first_token_ms=700).embed(EmbeddingRequest("r", "m", ("a",)))
    assert time.now == pytest.approx(100.7)
