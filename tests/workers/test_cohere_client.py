"""Cohere's own client as the reference: our requests are its requests, and its models take what our protocol server of
the conformance suite says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cohere
import httpx
import pydantic
import pytest
from cohere.v2.types.v2chat_response import V2ChatResponse
from cohere.v2.types.v2chat_stream_response import V2ChatStreamResponse

from tests.conformance.backends.cohere import SPEAKER
from tests.conformance.backends.speaker import Reasoning, Script, Text, ToolCall
from tests.servers import LAST_CHUNK, Exchange, ScriptedBackend, head, http_chunk, says, whole
from tests.workers.helpers import ask
from workers.base import ChatMessage, EmbeddingRequest, Usage
from workers.cohere_dialect import encode_request
from workers.cohere_texts import encode_embed, encode_tokenize

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kiel"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "weather here?"}, IMAGE]},
    {"role": "assistant", "tool_calls": [CALL], "tool_plan": "I will look."},
    {"role": "tool", "tool_call_id": "call_1", "content": "12 °C"},
    {"role": "assistant", "content": "12 °C."},
    {"role": "user", "content": "and tomorrow?"},
]
OURS = [{**one, "reasoning_content": one["tool_plan"]} if "tool_plan" in one else one for one in TALK]
OPENING = "ChatMessageStartEventDeltaMessage."  # the models have its role only, the guide to streaming more
SCRIPTS = [
    Script(),
    Script((Reasoning("Hm. "), Reasoning("So."), Text("They "), Text("shed.")), usage=Usage(11, 4, cached_tokens=3)),
    Script((Text("Let me see."), ToolCall("c1", "weather", '{"city": "Kiel"}'), ToolCall("c2", "tide", "{}"))),
    Script((Text("a"),), "length", usage=None),
]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[cohere.AsyncClientV2, ScriptedBackend]]:
    async def answers(exchange: Exchange) -> None:
        if exchange.path == "/v2/embed":
            body = b'{"id": "e", "embeddings": {"float": [[1.0], [2.0]]}, "meta": {}}'
        elif exchange.path == "/v1/tokenize":
            body = b'{"tokens": [1], "token_strings": ["a"]}'
        else:
            body = SPEAKER.whole(Script())
        await says(whole(body))(exchange)

    async with ScriptedBackend(answers) as backend, httpx.AsyncClient() as http:
        address = backend.base_url.removesuffix("/v1")
        yield cohere.AsyncClientV2("sk-secret-1", base_url=address, httpx_client=http), backend


def encoded(body: dict[str, Any], *messages: dict[str, Any], **parameters: Any) -> Any:
    raws = tuple([ChatMessage(one["role"], "", json.dumps(one).encode()) for one in messages])
    request = ask(messages=raws, body=body, stream=False, **parameters)
    return json.loads(encode_request(request, model="command-a"))


async def test_a_talk_with_tools():
    async with connected() as (client, backend):
        await client.chat(model="command-a", messages=TALK, tools=[TOOL], tool_choice="REQUIRED", strict_tools=True)
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    assert encoded({"tools": [strict], "tool_choice": "required"}, *OURS) == backend.exchanges[0].json
    assert backend.exchanges[0].path == "/v2/chat"


async def test_parameters_and_structured_output():
    form = {"type": "json_object", "json_schema": SCHEMA}
    async with connected() as (client, backend):
        await client.chat(
            model="command-a",
            messages=TALK[:1],
            response_format=form,
            max_tokens=5,
            stop_sequences=["END"],
            temperature=0.5,
            seed=7,
            p=0.5,
            k=3,
            frequency_penalty=0.25,
            thinking={"type": "disabled"},
        )
    body = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "top_k": 3,
        "frequency_penalty": 0.25,
        "reasoning_effort": "none",
    }
    ours = encoded(body, TALK[0], max_tokens=5, stop=("END",), temperature=0.5, seed=7, top_p=0.5)
    assert ours == backend.exchanges[0].json


async def test_embed_and_tokenize():
    async with connected() as (client, backend):
        await client.embed(
            model="embed-v4.0",
            texts=["a", "b"],
            input_type="search_query",
            embedding_types=["float"],
            output_dimension=256,
        )
        await client.tokenize(text="hello", model="command-a", offline=False)
    request = EmbeddingRequest("req-1", "m", ("a", "b"), dimensions=256, purpose="query")
    embed, tokenize = backend.exchanges
    assert json.loads(encode_embed(request, ["a", "b"], model="embed-v4.0")) == embed.json
    (body,) = encode_tokenize(ask("hello"), model="command-a") or []
    assert json.loads(body) == tokenize.json
    assert (embed.path, tokenize.path) == ("/v2/embed", "/v1/tokenize")


def unknown_in(model: Any) -> list[str]:
    """Fields that the client's models do not know."""
    match model:
        case pydantic.BaseModel():
            own = [f"{type(model).__name__}.{name}" for name in model.model_extra or {}]
            return own + [name for field in type(model).model_fields for name in unknown_in(getattr(model, field))]
        case list():
            return [name for one in model for name in unknown_in(one)]
        case _:
            return []


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_our_server_says_is_what_the_client_knows(script):
    answer = V2ChatResponse.model_validate_json(SPEAKER.whole(script))
    assert not unknown_in(answer)
    events = [json.loads(piece.partition(b"data: ")[2]) for piece in SPEAKER.stream(script)]
    parse = pydantic.TypeAdapter(V2ChatStreamResponse).validate_python
    for event in events:
        parsed = parse(event)
        assert parsed.type == event["type"]
        assert all(name.startswith(OPENING) for name in unknown_in(parsed))


@pytest.mark.parametrize("script", SCRIPTS)
async def test_the_client_hears_what_our_server_says(script):
    async with connected() as (client, backend):
        backend.script = says(whole(SPEAKER.whole(script)))
        answer = await client.chat(model="m", messages=TALK[:1])
        frames = b"".join(map(http_chunk, SPEAKER.stream(script)))
        backend.script = says(head(Transfer_Encoding="chunked") + frames + LAST_CHUNK)
        events = [event async for event in client.chat_stream(model="m", messages=TALK[:1])]
    contents = answer.message.content or []
    assert "".join([one.text for one in contents if one.type == "text"]) == script.text
    assert "".join([one.thinking for one in contents if one.type == "thinking"]) == script.reasoning
    assert [call.function.name for call in answer.message.tool_calls or ()] == [call.name for call in script.calls]
    deltas = [event.delta.message.content for event in events if event.type == "content-delta"]
    assert "".join([delta.text or "" for delta in deltas]) == script.text
    assert "".join([delta.thinking or "" for delta in deltas]) == script.reasoning
    pieces = [event.delta.message.tool_calls.function.arguments for event in events if event.type == "tool-call-delta"]
    assert "".join(pieces) == "".join([call.arguments for call in script.calls])
    assert events[-1].delta.finish_reason == answer.finish_reason
