"""What every worker owes the pipeline, whatever its kind (`workers.base.ModelWorker`)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from config.schema import AnyWorker
from tests.conformance.backends.kinds import SPEAKERS, calling
from tests.conformance.backends.server import HttpServed
from tests.conformance.backends.speaker import Heard, Script, Speaker, Text
from tests.servers import TinyLlama, tiny_llama
from tests.workers.helpers import ask, section, told
from workers import registry
from workers.base import GenerationRequest, ModelWorker, Passage, Usage
from workers.errors import WorkerError, WorkerErrorKind

BY_HTTP = {speaker.kind: speaker for speaker in SPEAKERS if speaker.http}
PASSAGES = (Passage("A full queue sheds requests. A shed request costs little.", "a.md", 0, 1.0),)
Opened = Callable[[], AbstractAsyncContextManager[ModelWorker]]


def question(*, stream: bool = True, **fields) -> GenerationRequest:
    return ask("when does a full queue shed requests", stream=stream, passages=PASSAGES, **fields)


def by_the_book(heard: Heard) -> Script:
    """A model that says w0 w1 … and knows max_tokens."""
    words = [f"w{at} " for at in range(min(heard.max_tokens or 6, 6))]
    return Script(
        tuple(map(Text, words)), "length" if len(words) < 6 else "stop", usage=Usage(7, len(words)), n=heard.n
    )


def local(given: AnyWorker) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ModelWorker]:
        worker = registry.build(given, resolve=str)
        yield worker
        await worker.aclose()

    return opened


def behind_http(speaker: Speaker, folder: Path) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[ModelWorker]:
        async with calling(speaker, folder) as served:
            assert isinstance(served, HttpServed)
            served.script_for = by_the_book  # type: ignore[method-assign]
            yield served.worker

    return opened


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
        *BY_HTTP,
        pytest.param("openai-llama", marks=pytest.mark.slow),
    ]
)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ModelWorker]:
    kinds: dict[str, Callable[[], Opened]] = {
        "echo": lambda: local(section("echo")),
        "echo-paced": lambda: local(section("echo", first_token_ms=2, tokens_per_s=1000, tokens_per_batch=2)),
        "echo-capacity": lambda: local(section("echo", capacity=1)),
        "extractive": lambda: local(section("extractive")),
        **{kind: partial(behind_http, speaker, tmp_path) for kind, speaker in BY_HTTP.items()},
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
        assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
