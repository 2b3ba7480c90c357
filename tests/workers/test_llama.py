"""The `openai` worker against a real llama.cpp server."""

import asyncio
import time

import msgspec
import pytest

from tests.servers import TinyLlama
from tests.workers.helpers import acquired, ask, openai_section, openai_worker, told
from workers.base import EmbeddingRequest
from workers.errors import WorkerError, WorkerErrorKind

pytestmark = pytest.mark.slow


@pytest.fixture
async def worker(llama: TinyLlama):
    worker = openai_worker(openai_section(llama.base_url))
    yield worker
    assert acquired(worker) == 0
    await worker.aclose()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer(worker, stream):
    answer = await told(worker, ask("w1 w2", stream=stream, max_tokens=12))
    assert len(answer.text.split()) == 12
    assert answer.reasons == {0: ["length"]}
    (usage,) = answer.usages
    assert usage.completion_tokens == 12
    assert usage.prompt_tokens > 2
    assert b"total_tokens" in usage.raw


async def test_the_clients_fields_reach_the_model(worker):
    fields = {"temperature": 0, "seed": 1, "max_tokens": 8, "cache_prompt": False}
    body = {"model": "x", "messages": [{"role": "user", "content": "w1"}], **fields}
    first, again = [await told(worker, ask("w1", body=body, rewritten=False)) for _ in range(2)]
    assert first.text == again.text
    assert len(first.text.split()) == 8


async def test_several_answers_at_once(worker):
    answers = await asyncio.gather(*[told(worker, ask(f"w{n}", max_tokens=20)) for n in range(12)])
    assert [answer.usages[0].completion_tokens for answer in answers] == [20] * 12


@pytest.mark.parametrize("stream", [True, False])
async def test_an_abandoned_call_frees_its_slot(worker, llama, stream):
    """The connection is closed at once; without streaming the server looks for that only once a second."""
    call = asyncio.create_task(told(worker, ask("w1", stream=stream, max_tokens=2000)))
    await until(lambda: llama.busy() == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: llama.busy() == 0, limit=1.0 if stream else 3.0)


async def until(condition, limit: float = 5.0) -> None:
    end = time.monotonic() + limit
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_invalid_request_is_refused_in_the_servers_words(worker, stream):
    with pytest.raises(WorkerError, match=r"400: .*messages") as raised:
        await told(worker, ask(body={"messages": 3}, rewritten=False, stream=stream))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
    assert raised.value.status == 400


async def test_a_prompt_beyond_the_context_is_refused(worker):
    with pytest.raises(WorkerError) as raised:
        await told(worker, ask("w1 " * 5000))
    assert raised.value.kind is WorkerErrorKind.CONTEXT_TOO_LONG


async def test_it_counts_tokens_as_the_server_does(worker):
    request = ask("w1 w2 and more", max_tokens=1)
    counted = await worker.count_tokens(request)
    assert counted == (await told(worker, request)).usages[0].prompt_tokens


async def test_a_completion_passes_as_it_is(worker):
    body = msgspec.json.encode({"model": "x", "prompt": "w1 w2", "max_tokens": 5, "stream": True})
    request = msgspec.structs.replace(ask("w1 w2"), native=body, native_dialect="completions")
    answer = await told(worker, request)
    assert len(answer.text.split()) == 5
    assert answer.reasons == {0: ["length"]}
    assert b'"object":"text_completion"' in answer.deltas[0].raw
    assert await worker.count_tokens(request) == answer.usages[0].prompt_tokens


async def test_it_says_how_much_it_can_take(worker):
    health = await worker.health()
    assert (health.ok, health.slots, health.context_tokens) == (True, 4, 2048)


async def test_a_model_that_cannot_embed_says_so(worker):
    with pytest.raises(WorkerError, match="does not support embeddings") as raised:
        await worker.embed(EmbeddingRequest("r", "x", ("w1",)))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST


async def test_health(worker):
    assert (await worker.health()).ok
