"""What Anthropic's own client makes of our answers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from pipeline.policy.access import key_hash
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.flows import config
from tests.http import Serving, serving
from tests.servers import TinyLlama, tiny_llama
from workers.base import DeltaBatch
from workers.canonical import Identity, extra, tool_call
from workers.errors import WorkerError, WorkerErrorKind

CONFIG = scripted_config()
HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
IDENTITY = Identity("chatcmpl-1", 1, "the-model")


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


@asynccontextmanager
async def client(server: Serving, *, retries: int = 0, **options: Any) -> AsyncIterator[AsyncAnthropic]:
    given = {"api_key": "none", "timeout": 5.0, **options}
    async with AsyncAnthropic(base_url=address(server), max_retries=retries, **given) as made:
        yield made


def address(server: Serving) -> str:
    return server.base_url.removesuffix("/v1")


def text(message: Any) -> str:
    return "".join([block.text for block in message.content if block.type == "text"])


async def test_an_answer():
    async with serving(CONFIG) as server, client(server) as api:
        message = await api.messages.create(model="echo", max_tokens=100, messages=HELLO)
        assert (text(message), message.stop_reason, message.model) == ("hello there", "end_turn", "echo")
        assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 2)
        assert message.id == f"msg_{server.books.ended[0].request_id}"


async def test_a_stream():
    async with serving(CONFIG) as server, client(server) as api:
        async with api.messages.stream(model="echo", max_tokens=100, messages=HELLO) as stream:
            pieces = [piece async for piece in stream.text_stream]
            message = await stream.get_final_message()
        assert "".join(pieces) == text(message) == "hello there"
        assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 2)
        events = await api.messages.create(model="echo", max_tokens=1, messages=HELLO, stream=True)
        kinds = [event.type async for event in events]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


async def test_the_synchronous_client():
    def use(base_url: str) -> tuple[str, str, int]:
        with Anthropic(base_url=base_url, api_key="none", max_retries=0) as api:
            message = api.messages.create(model="echo", max_tokens=100, messages=HELLO)
            with api.messages.stream(model="echo", max_tokens=100, messages=HELLO) as stream:
                streamed = stream.get_final_text()
            counted = api.messages.count_tokens(model="echo", messages=HELLO)
            return text(message), streamed, counted.input_tokens

    async with serving(CONFIG) as server:
        *said, tokens = await asyncio.to_thread(use, address(server))
        assert said == ["hello there"] * 2
        assert tokens > 2


async def test_tools_both_ways(said):
    said.batches.put_nowait(DeltaBatch((extra(IDENTITY, {"reasoning_content": "Hm."}),)))
    for call in (tool_call(0, call_id="call_1", name="weather"), tool_call(0, arguments='{"city": "Kiel"}')):
        said.batches.put_nowait(DeltaBatch((extra(IDENTITY, {"tool_calls": [call]}),)))
    said.batches.put_nowait(DeltaBatch((extra(IDENTITY, {}, finish_reason="tool_calls"),)))
    said.batches.put_nowait(None)
    tools: list[Any] = [{"name": "weather", "input_schema": {"type": "object"}}]
    asked: Any = {"model": "said", "max_tokens": 100, "tools": tools}
    async with serving(CONFIG, workers={"said": said}) as server, client(server) as api:
        async with api.messages.stream(messages=HELLO, **asked) as stream:
            message = await stream.get_final_message()
        assert [block.type for block in message.content] == ["thinking", "tool_use"]
        assert (message.content[1].input, message.stop_reason) == ({"city": "Kiel"}, "tool_use")
        said.say("12 °C", end=True)
        result = {"type": "tool_result", "tool_use_id": message.content[1].id, "content": "12"}
        turns = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        assert text(await api.messages.create(messages=turns, **asked)) == "12 °C"
    assert [m.role for m in said.requests[1].messages] == ["user", "assistant", "tool"]
    assert b'"call_1"' in said.requests[1].messages[1].raw


async def test_errors_are_of_their_kinds(said):
    async with serving(CONFIG, workers={"said": said}) as server, client(server) as api:
        asked: Any = {"max_tokens": 5, "messages": HELLO}
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await api.messages.create(model="nope", **asked)
        assert unknown.value.type == "not_found_error"
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            await api.messages.create(model="echo", max_tokens=0, messages=HELLO)
        server.pipeline.ingress.draining = True
        with pytest.raises(anthropic.APIStatusError) as shed:
            await api.messages.create(model="echo", **asked)
        assert (shed.value.status_code, shed.value.type) == (503, "overloaded_error")
        server.pipeline.ingress.draining = False
        said.say("a")
        said.batches.put_nowait(WorkerError(WorkerErrorKind.RESET, "it broke"))
        with pytest.raises(anthropic.APIError, match="it broke"):
            async with api.messages.stream(model="said", **asked) as stream:
                await stream.get_final_message()


@pytest.mark.slow
async def test_a_shed_request_is_repeated_when_we_said():
    async with serving(CONFIG) as server, client(server, retries=2) as api:
        server.pipeline.ingress.draining = True
        asking = asyncio.create_task(api.messages.create(model="echo", max_tokens=100, messages=HELLO))
        async with asyncio.timeout(5):
            while not server.books.ended:
                await asyncio.sleep(0.01)
        server.pipeline.ingress.draining = False
        assert text(await asking) == "hello there"
        assert len(server.books.ended) == 2


@pytest.mark.parametrize("given", [{"api_key": "hg-key"}, {"api_key": None, "auth_token": "hg-key"}])
async def test_keys_in_either_header(given, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    conf = config(
        routes=[{"name": "echo", "worker": "echo"}, {"name": "other", "worker": "echo"}],
        keys=[{"name": "k", "hash": key_hash("hg-key"), "routes": ["echo"]}],
    )
    async with serving(conf) as server:
        async with client(server, **given) as api:
            assert text(await api.messages.create(model="echo", max_tokens=9, messages=HELLO)) == "hello there"
            for call in (
                api.messages.create(model="other", max_tokens=9, messages=HELLO),
                api.messages.count_tokens(model="other", messages=HELLO),
            ):
                with pytest.raises(anthropic.PermissionDeniedError):
                    await call
        async with client(server, api_key="hg-wrong") as api:
            for call in (
                api.messages.create(model="echo", max_tokens=9, messages=HELLO),
                api.messages.count_tokens(model="echo", messages=HELLO),
            ):
                with pytest.raises(anthropic.AuthenticationError):
                    await call


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLlama]:
    with tiny_llama(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.mark.slow
async def test_all_the_way_to_a_llama_cpp_server(llama: TinyLlama):
    conf = config(
        workers=[
            {"name": "messages", "kind": "anthropic", "base_url": llama.address},
            {"name": "chat", "kind": "openai", "base_url": llama.base_url},
        ],
        routes=[
            {"name": "plain", "worker": "messages"},
            {"name": "renamed", "worker": "messages", "rename_model": True},
            {"name": "translated", "worker": "chat"},
        ],
    )
    async with serving(conf) as server, client(server, timeout=20.0) as api:
        for model in ("plain", "renamed", "translated"):
            asked: Any = {"model": model, "max_tokens": 5, "messages": HELLO}
            message = await api.messages.create(**asked)
            async with api.messages.stream(**asked) as stream:
                gathered = await stream.get_final_message()
            for answer in (message, gathered):
                assert len(text(answer).split()) == 5
                assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 5)
                assert (answer.model == model) is (model == "renamed")
                assert answer.id.startswith("msg_") is (
                    model != "plain"
                )  # only what nothing must change stays as it is
