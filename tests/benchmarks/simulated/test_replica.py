"""One replica over HTTP, as the official client and others meet it."""

import asyncio
import io
import time
from typing import Any

import openai
import pytest

from benchmarks.simulated.answers import text
from tests.benchmarks.backends import LONG, Process, RawClient, Simulated

pytestmark = pytest.mark.slow

HELLO: list[Any] = [{"role": "user", "content": "three words here"}]


# The official client.


async def test_the_official_client_gets_an_answer(backend: Simulated, client: openai.AsyncOpenAI):
    await backend.set(first_token_ms=0)
    answer = await client.chat.completions.create(model="any/name", messages=HELLO)
    assert answer.choices[0].message.content == text(16)
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "any/name")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 16, 19)
    short = await client.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == (text(2), "length")


@pytest.mark.parametrize("rate", [0, 500, 20_000])
async def test_the_official_client_gets_a_stream(backend: Simulated, client: openai.AsyncOpenAI, rate: float):
    await backend.set(first_token_ms=5, tokens_per_second=rate)
    stream = await client.chat.completions.create(
        model="m", messages=HELLO, stream=True, max_tokens=40, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [delta for delta in deltas if delta] == text(40).replace(" ", " \n").split("\n")[:-1]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 40)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_usage_ends_with_its_finish_reason(backend: Simulated, client: openai.AsyncOpenAI):
    await backend.set(first_token_ms=0, tokens=1)
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_official_client_lists_the_model(client: openai.AsyncOpenAI):
    assert [model.id async for model in client.models.list()] == ["simulated"]


async def test_the_official_client_understands_a_failure(backend: Simulated, client: openai.AsyncOpenAI):
    await backend.set(failure_rate=1, failure_status=502, first_token_ms=60_000)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (
        502,
        "simulated_failure",
        "server_error",
    )
    assert (await backend.get())["counts"]["failed"] == 1


async def test_the_official_client_understands_a_refusal(backend: Simulated, client: openai.AsyncOpenAI):
    await backend.set(slots=2, queue=0, **LONG)
    held = [await RawClient.ask(backend.port, "hold") for _ in range(2)]
    await backend.busy(2)
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["Retry-After"] == "30"
    for one in held:
        await one.drop()


# Bad input.


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "JSON"),
        (b"", "JSON"),
        (b"[]", "object"),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"content": "x"}]}', "role"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "$.messages[0].content"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "utf-8"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 0}', "$.max_tokens"),
        (b'{"messages": [{"role": "user"}], "max_tokens": 1000001}', "$.max_tokens"),
        (b'{"messages": [{"role": "user"}], "n": 2}', "$.n"),
        (b'{"messages": [{"role": "user"}], "stream": "yes"}', "$.stream"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(backend: Simulated, body: bytes, named: str):
    async with backend.session.post(f"{backend.base_url}/chat/completions", data=body) as answer:
        problem = (await answer.json())["error"]
    assert (answer.status, problem["type"], problem["code"]) == (400, "invalid_request_error", "invalid_request")
    assert named in problem["message"]
    assert (await backend.get())["counts"]["arrivals"] == 0


async def test_a_body_has_a_bound(backend: Simulated):
    async with backend.session.post(f"{backend.base_url}/chat/completions", data=io.BytesIO(bytes(17 << 20))) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")


async def test_other_paths_and_methods_are_refused(backend: Simulated):
    async with backend.session.get(f"{backend.base_url}/chat/completions") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with backend.session.get(f"{backend.url}/v2/models") as answer:
        assert answer.status == 404
        assert "/v2/models" in (await answer.json())["error"]["message"]
    assert await backend.get("/health") == {"status": "ok"}


# Streams.


async def test_a_stall_stops_a_stream_in_the_middle(backend: Simulated):
    await backend.set(first_token_ms=0, tokens=4, stall_rate=1, stall_seconds=0.3)
    client = await RawClient.ask(backend.port, "x", stream=True)
    await client.reader.readuntil(b"of ")
    began = time.monotonic()
    rest = await client.reader.readuntil(b"[DONE]")
    assert time.monotonic() - began > 0.25
    assert rest.count(b'"content"') == 2
    await client.drop()


async def test_a_client_that_reads_late_holds_its_slot_until_then(backend: Simulated):
    await backend.set(first_token_ms=0)
    client = await RawClient.ask(backend.port, "#0000000a.1", stream=True, max_tokens=50_000)  # more than buffers hold
    await client.status()
    await backend.busy(1)
    await asyncio.sleep(0.2)
    end = b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        read = await client.reader.read(1 << 20)
        assert read
        end = (end + read)[-8:]
    (row,) = await backend.rows("0000000a")
    assert row[4] > 0.2
    assert row[-1] == "served"
    await client.drop()


async def test_a_client_that_does_not_read_costs_its_slot_and_not_our_memory(process: Process, backend: Simulated):
    await backend.set(first_token_ms=0)
    before = process.resident()
    client = await RawClient.ask(backend.port, "x", stream=True, max_tokens=300_000)  # some 60 MB
    await client.status()
    await backend.busy(1)
    held = await backend.get()
    grown = process.resident() - before
    await client.drop()
    counts = (await backend.busy(0))["counts"]
    assert held["in_flight"] == 1
    assert grown < 20 << 20
    assert counts["cancelled"] == 1
