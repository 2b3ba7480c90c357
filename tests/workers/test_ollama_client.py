"""Ollama's own client as the reference: our requests are its requests, and its models take what our protocol server of
the conformance suite says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest

from tests.conformance.backends.ollama import SPEAKER
from tests.conformance.backends.speaker import Reasoning, Script, Text, ToolCall
from tests.servers import LAST_CHUNK, Exchange, ScriptedBackend, head, http_chunk, says, whole
from tests.workers.helpers import ask, section
from workers.base import ChatMessage, EmbeddingRequest
from workers.ollama_dialect import encode_embed, encode_request

SECTION = section("ollama", model="qwen3:8b", context_tokens=4096, keep_alive="10m")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}
PNG = "iVBORw0KGgo="
CALL = {"function": {"name": "weather", "arguments": {"city": "Kiel"}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "weather here?", "images": [PNG]},
    {"role": "assistant", "content": "", "thinking": "I will look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "12 °C", "tool_name": "weather"},
    {"role": "assistant", "content": "12 °C."},
    {"role": "user", "content": "and tomorrow?"},
]
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
OURS: list[dict[str, Any]] = [
    TALK[0],
    {"role": "user", "content": [{"type": "text", "text": "weather here?"}, IMAGE]},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I will look.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kiel"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "12 °C"},
    *TALK[4:],
]
SCRIPTS = [
    Script(),
    Script((Reasoning("Hm. "), Reasoning("So."), Text("They "), Text("shed."))),
    Script((Text("Let me see."), ToolCall("c1", "weather", '{"city": "Kiel"}'), ToolCall("c2", "tide", "{}"))),
    Script((Text("a"),), "length", usage=None),
]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[ollama.AsyncClient, ScriptedBackend]]:
    async def answers(exchange: Exchange) -> None:
        body = SPEAKER.whole(Script()) if exchange.path == "/api/chat" else b'{"embeddings": [[1.0], [2.0]]}'
        await says(whole(body))(exchange)

    async with (
        ScriptedBackend(answers) as backend,
        ollama.AsyncClient(host=backend.base_url.removesuffix("/v1")) as client,
    ):
        yield client, backend


def encoded(body: dict[str, Any], **parameters: Any) -> Any:
    """Our body, without what servers know and the client has no word for: that the prompt is not to be cut, and ids of
    calls."""
    raws = tuple([ChatMessage(one["role"], "", json.dumps(one).encode()) for one in OURS])
    told = json.loads(encode_request(ask(messages=raws, body=body, **parameters), SECTION))
    assert told.pop("truncate") is False
    for message in told["messages"]:
        message.pop("tool_call_id", None)
        for call in message.get("tool_calls", ()):
            call.pop("id")
    return told


@pytest.mark.parametrize("stream", [True, False])
async def test_a_talk_with_everything(stream):
    options = {"num_ctx": 4096, "num_predict": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "seed": 7}
    async with connected() as (client, backend):
        if stream:
            backend.script = says(head(Transfer_Encoding="chunked") + LAST_CHUNK)
        answer = await client.chat(
            model="qwen3:8b",
            messages=TALK,
            tools=[TOOL],
            stream=stream,
            think="high",
            format=SCHEMA,
            options={**options, "stop": ["END"]},
            keep_alive="10m",
        )
        if stream:
            assert [part async for part in answer] == []
    body = {
        "tools": [TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "reasoning_effort": "high",
        "top_k": 3,
    }
    ours = encoded(body, stream=stream, max_tokens=5, temperature=0.5, top_p=0.5, seed=7, stop=("END",))
    sent = backend.exchanges[0].json
    for message in sent["messages"]:  # the client leaves empty contents out, which servers take for empty
        message.setdefault("content", "")
    assert ours == sent
    assert backend.exchanges[0].path == "/api/chat"


async def test_embed():
    async with connected() as (client, backend):
        await client.embed(
            model="qwen3:8b",
            input=["a", "b"],
            truncate=False,
            options={"num_ctx": 4096},
            keep_alive="10m",
            dimensions=256,
        )
    request = EmbeddingRequest("req-1", "m", ("a", "b"), dimensions=256)
    assert json.loads(encode_embed(request, ["a", "b"], SECTION)) == backend.exchanges[0].json
    assert backend.exchanges[0].path == "/api/embed"


def without_new(frame: dict[str, Any]) -> dict[str, Any]:
    """Without what servers say of tool calls and the client's models do not have."""
    for call in frame["message"].get("tool_calls", ()):
        call.pop("id")
        call["function"].pop("index")
    return frame


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_our_server_says_is_what_the_client_knows(script):
    for line in [*SPEAKER.stream(script), SPEAKER.whole(script)]:
        known = ollama.ChatResponse.model_validate_json(line).model_dump(exclude_unset=True)
        assert known == without_new(json.loads(line))


@pytest.mark.parametrize("script", SCRIPTS)
async def test_the_client_hears_what_our_server_says(script):
    async with connected() as (client, backend):
        backend.script = says(whole(SPEAKER.whole(script)))
        answer = await client.chat(model="m", messages=TALK[:1])
        lines = b"".join(map(http_chunk, SPEAKER.stream(script)))
        backend.script = says(head(200, SPEAKER.content_type, Transfer_Encoding="chunked") + lines + LAST_CHUNK)
        parts = [part async for part in await client.chat(model="m", messages=TALK[:1], stream=True)]
    for messages in ([answer.message], [part.message for part in parts]):
        assert "".join([message.content or "" for message in messages]) == script.text
        assert "".join([message.thinking or "" for message in messages]) == script.reasoning
        called = [call.function for message in messages for call in message.tool_calls or ()]
        assert [(one.name, one.arguments) for one in called] == [
            (call.name, json.loads(call.arguments)) for call in script.calls
        ]
    assert (parts[-1].done, parts[-1].done_reason) == (True, answer.done_reason)
    assert parts[-1].eval_count == answer.eval_count
