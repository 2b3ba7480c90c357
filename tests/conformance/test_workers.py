"""What every worker owes the pipeline, whatever its kind (`workers.base.ModelWorker`)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import pytest

from config.schema import AnyWorker
from tests.servers import (
    Exchange,
    ScriptedBackend,
    TinyLlama,
    chunk,
    completion,
    says,
    says_and_waits,
    streamed,
    tiny_llama,
    usage_chunk,
    whole,
)
from tests.workers.helpers import ask, section, told
from workers import registry
from workers.base import GenerationRequest, ModelWorker, Passage
from workers.errors import WorkerError, WorkerErrorKind

PASSAGES = (Passage("A full queue sheds requests. A shed request costs little.", "a.md", 0, 1.0),)
Opened = Callable[[], AbstractAsyncContextManager[ModelWorker]]


def question(*, stream: bool = True, **fields) -> GenerationRequest:
    return ask("when does a full queue shed requests", stream=stream, passages=PASSAGES, **fields)


async def by_the_book(exchange: Exchange) -> None:
    """An OpenAI-compatible backend that says w0 w1 … and knows n, max_tokens and stream_options."""
    body = exchange.json if exchange.body else {}
    words = [f"w{at} " for at in range(min(body.get("max_tokens") or 6, 6))]
    reason = "length" if len(words) < 6 else "stop"
    if not body.get("stream"):
        answer = completion("".join(words))
        answer["choices"][0]["finish_reason"] = reason
        answer["usage"] = usage_chunk(7, len(words))["usage"]
        await says(whole(answer))(exchange)
        return
    chunks = [chunk(role="assistant"), *[chunk(word) for word in words], chunk(finish=reason)]
    await says(streamed(*chunks, usage_chunk(7, len(words))))(exchange)


def local(given: AnyWorker) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ModelWorker]:
        worker = registry.build(given, resolve=str)
        yield worker
        await worker.aclose()

    return opened


@asynccontextmanager
async def scripted() -> AsyncIterator[ModelWorker]:
    async with ScriptedBackend(by_the_book) as backend:
        worker = registry.build(section("openai", base_url=backend.base_url), resolve=str)
        yield worker
        await worker.aclose()
        await backend.until(lambda backend: backend.open == 0)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLlama]:
    with tiny_llama(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture(
    params=[
        "echo",
        "echo-paced",
        "echo-capacity",
        "extractive",
        "openai",
        pytest.param("openai-llama", marks=pytest.mark.slow),
    ]
)
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[ModelWorker]:
    kinds: dict[str, Callable[[], Opened]] = {
        "echo": lambda: local(section("echo")),
        "echo-paced": lambda: local(section("echo", first_token_ms=2, tokens_per_s=1000, tokens_per_batch=2)),
        "echo-capacity": lambda: local(section("echo", capacity=1)),
        "extractive": lambda: local(section("extractive")),
        "openai": lambda: scripted,
        "openai-llama": lambda: local(section("openai", base_url=request.getfixturevalue("llama").base_url)),
    }
    before = asyncio.all_tasks()
    async with kinds[request.param]()() as worker:
        yield worker
    left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
    assert not left, left


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_is_complete(worker, stream):
    answer = await told(worker, question(stream=stream, max_tokens=4))
    assert answer.text.strip()
    assert list(answer.reasons) == [0]
    assert len(answer.reasons[0]) == 1
    (usage,) = answer.usages
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens == 4
    assert len(answer.text.split()) == 4
    assert answer.reasons == {0: ["length"]}


async def test_usage_comes_with_the_last_batch_or_after_it(worker):
    answer = await told(worker, question(max_tokens=4))
    with_usage = [at for at, batch in enumerate(answer.batches) if batch.usage is not None]
    assert with_usage == [len(answer.batches) - 1]
    assert answer.deltas[-1].finish_reason is not None


async def test_only_an_answer_that_was_not_streamed_has_a_body(worker):
    assert not any(batch.body for batch in (await told(worker, question(max_tokens=4))).batches)
    whole_answer = await told(worker, question(stream=False, max_tokens=4))
    assert all(not delta.raw for delta in whole_answer.deltas)


async def test_many_at_once_do_not_mix(worker):
    requests = [question(max_tokens=1 + number % 4, stream=bool(number % 2)) for number in range(24)]
    answers = await asyncio.gather(*[told(worker, request) for request in requests])
    assert [answer.usages[0].completion_tokens for answer in answers] == [r.parameters.max_tokens for r in requests]


async def test_closed_at_any_point_it_serves_on(worker):
    for stream in (True, False):
        await worker.generate(question(stream=stream)).aclose()  # before it began
        async with aclosing(worker.generate(question(stream=stream, max_tokens=4))) as batches:
            await anext(batches)
    assert (await told(worker, question(max_tokens=4))).reasons == {0: ["length"]}


async def test_cancelled_at_any_tick_it_serves_on(worker):
    for ticks in range(12):
        call = asyncio.create_task(told(worker, question(max_tokens=4, stream=bool(ticks % 2))))
        for _ in range(ticks):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert (await told(worker, question(max_tokens=4))).reasons == {0: ["length"]}


async def test_it_is_well(worker):
    assert (await worker.health()).ok


async def test_it_may_be_closed_twice(worker):
    await told(worker, question(max_tokens=2))
    await worker.aclose()


@pytest.mark.parametrize("kind", ["echo", "extractive"])
async def test_workers_of_their_own_words_give_one_choice(kind):
    async with local(section(kind))() as worker:
        with pytest.raises(WorkerError) as raised:
            await told(worker, question(n=2))
        assert raised.value.kind is WorkerErrorKind.REFUSED


async def test_a_stalled_backend_is_let_go_of_at_once():
    async with ScriptedBackend(says_and_waits(b"")) as backend:
        worker = registry.build(section("openai", base_url=backend.base_url), resolve=str)
        call = asyncio.create_task(told(worker, question()))
        await backend.until(lambda backend: backend.exchanges)
        call.cancel()
        await backend.until(lambda backend: backend.open == 0, limit=1.0)
        await worker.aclose()
