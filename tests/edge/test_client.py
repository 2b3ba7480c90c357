"""What the official client makes of our answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from pipeline.adapters.retrievers.memory import MemoryRetriever
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.flows import config
from tests.http import Serving, serving
from workers.errors import WorkerError, WorkerErrorKind
from workers.lexical import Lexical

CONFIG = scripted_config()
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


@asynccontextmanager
async def client(server: Serving, *, retries: int = 0, seconds: float = 5.0) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=retries, timeout=seconds) as made:
        yield made


async def test_an_answer():
    async with serving(CONFIG) as server, client(server) as api:
        completion = await api.chat.completions.create(model="echo", messages=HELLO)
        assert completion.choices[0].message.content == "hello there"
        assert completion.choices[0].finish_reason == "stop"
        assert completion.model == "echo"
        assert completion.usage is not None
        assert completion.usage.total_tokens == 4
        assert completion._request_id == completion.id.removeprefix("chatcmpl-")


async def test_a_stream():
    async with serving(CONFIG) as server, client(server) as api:
        stream = await api.chat.completions.create(
            model="echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello there"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 4


async def test_the_clients_own_helper_gathers_a_stream():
    async with serving(CONFIG) as server, client(server) as api:
        async with api.chat.completions.stream(model="echo", messages=HELLO) as stream:
            completion = await stream.get_final_completion()
        assert completion.choices[0].message.content == "hello there"


async def test_the_synchronous_client():
    def use(base_url: str) -> tuple[str | None, str, list[str]]:
        with OpenAI(base_url=base_url, api_key="none", max_retries=0) as api:
            completion = api.chat.completions.create(model="echo", messages=HELLO)
            stream = api.chat.completions.create(model="echo", messages=HELLO, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            models = [model.id for model in api.models.list()]
            assert api.models.retrieve("said").id == "said"
            return completion.choices[0].message.content, streamed, models

    async with serving(CONFIG) as server:
        assert await asyncio.to_thread(use, server.base_url) == ("hello there", "hello there", ["said", "echo"])


async def test_citations_come_along_and_disturb_nobody():
    conf = config(
        routes=[{"name": "docs", "worker": "echo", "collection": "c"}],
        collections=[{"name": "c", "store": "memory", "embedder": "lexical"}],
    )
    retriever = MemoryRetriever(Lexical())
    await retriever.add("c", "docs/hello.md", [("Greetings", "Say hello there to everyone.")])
    async with serving(conf, retriever=retriever) as server, client(server) as api:
        completion = await api.chat.completions.create(model="docs", messages=HELLO)
        assert completion.model_extra is not None
        assert completion.model_extra["citations"][0]["source"] == "docs/hello.md"
        stream = await api.chat.completions.create(model="docs", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
        assert [bool((chunk.model_extra or {}).get("citations")) for chunk in chunks].count(True) == 1
        assert chunks[0].model_extra is not None
        assert chunks[0].model_extra["citations"][0]["text"] == "Say hello there to everyone."


async def test_a_bad_request():
    async with serving(CONFIG) as server, client(server) as api:
        with pytest.raises(openai.BadRequestError) as refused:
            await api.chat.completions.create(model="echo", messages=[{"role": "wizard", "content": "x"}])
        error = refused.value
        assert (error.code, error.param, error.type) == ("invalid_value", "messages[0].role", "invalid_request_error")
        assert error.request_id == server.books.ended[0].request_id
        with pytest.raises(openai.BadRequestError):
            await api.chat.completions.create(model="echo", messages=[])
        with pytest.raises(openai.BadRequestError):
            await api.chat.completions.create(model="echo", messages=HELLO, max_tokens=-1)


async def test_an_unknown_model():
    async with serving(CONFIG) as server, client(server) as api:
        with pytest.raises(openai.NotFoundError) as refused:
            await api.chat.completions.create(model="nope", messages=HELLO)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            await api.models.retrieve("nope")


async def test_a_shed_request():
    async with serving(CONFIG) as server, client(server) as api:
        server.pipeline.ingress.draining = True
        with pytest.raises(openai.InternalServerError) as refused:
            await api.chat.completions.create(model="echo", messages=HELLO)
        assert isinstance(refused.value, openai.APIStatusError)
        assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
        assert int(refused.value.response.headers["retry-after-ms"]) >= 1


async def test_a_request_that_expired_is_not_repeated(said):
    async with serving(CONFIG, workers={"said": said}) as server, client(server, retries=3) as api:
        with pytest.raises(openai.InternalServerError) as refused:
            await api.chat.completions.create(
                model="said", messages=HELLO, extra_headers={"X-Request-Timeout-Ms": "50"}
            )
        assert (refused.value.status_code, refused.value.code) == (504, "deadline_exceeded")
        assert len(server.books.ended) == 1


async def test_a_failure_in_the_middle_of_a_stream(said):
    async with serving(CONFIG, workers={"said": said}) as server, client(server) as api:
        said.say("a")
        said.batches.put_nowait(WorkerError(WorkerErrorKind.RESET, "the connection broke"))
        stream = await api.chat.completions.create(model="said", messages=HELLO, stream=True)
        lead, first = await anext(stream), await anext(stream)
        assert (lead.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "a")
        with pytest.raises(openai.APIError) as broken:
            await anext(stream)
        assert broken.value.code == "backend_error"


async def test_a_client_that_has_waited_long_enough_leaves_and_is_noticed(said):
    async with serving(CONFIG, workers={"said": said}) as server, client(server, seconds=0.1) as api:
        with pytest.raises(openai.APITimeoutError):
            await api.chat.completions.create(model="said", messages=HELLO)
        async with asyncio.timeout(1):
            await said.closed.wait()


async def test_a_client_that_closes_its_stream_stops_the_backend_call(said):
    async with serving(CONFIG, workers={"said": said}) as server, client(server) as api:
        said.say("a", "b")
        stream = await api.chat.completions.create(model="said", messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(1):
            await said.closed.wait()


async def test_tool_calls_reach_the_worker_and_unknown_parameters_too(said):
    said.say("ok", end=True)
    async with serving(CONFIG, workers={"said": said}) as server, client(server) as api:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        await api.chat.completions.create(
            model="said",
            messages=[*HELLO, {"role": "tool", "tool_call_id": "1", "content": "42"}],
            tools=tools,
            extra_body={"top_k": 5},
        )
        body = said.requests[0].body
        assert b'"tools":' in body
        assert b'"top_k":5' in body.replace(b" ", b"")
        assert b"tool_call_id" in said.requests[0].messages[1].raw
