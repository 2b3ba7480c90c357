"""The client against real servers, which frame their answers as they like."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from benchmarks.load.answer import End
from benchmarks.load.scenario import Leave
from tests.benchmarks.load.asking import BODY, REFUSAL, THREE, ask, wired
from tests.benchmarks.load.simulated import simulated
from tests.benchmarks.load.targets import after, refusing, serving
from tests.servers import events, tiny_llama


def streaming(*, ends: bool = True, gone: asyncio.Event | None = None):
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for each in THREE:
                await response.write(events(each, done=False))
            if not ends:
                await asyncio.Event().wait()
            await response.write(events())
        except asyncio.CancelledError:
            if gone is not None:
                gone.set()
            raise
        return response

    return handler


async def test_aiohttp():
    async with serving(after(0)) as url, wired(url) as wire:
        answers = [await ask(wire) for _ in range(3)]
        assert [(answer.end, answer.tokens) for answer in answers] == [(End.WHOLE, 1)] * 3
        assert (wire.opened, "aiohttp" in wire.server) == (1, True)
    async with serving(streaming()) as url, wired(url) as wire:
        answers = [await ask(wire, stream=True) for _ in range(3)]
        assert [(answer.end, answer.tokens) for answer in answers] == [(End.WHOLE, 3)] * 3
        assert wire.opened == 1
    async with serving(refusing(503, {"retry-after-ms": "1500"})) as url, wired(url) as wire:
        answer = await ask(wire)
        assert (answer.end, answer.status, answer.code) == (End.REFUSED, 503, REFUSAL["error"]["code"])
        assert answer.retry_after == 1.5


@pytest.mark.parametrize("leave", [Leave(share=1, after="tokens", tokens=2), None])
async def test_aiohttp_sees_a_client_leave(leave: Leave | None):
    gone = asyncio.Event()
    async with serving(streaming(ends=False, gone=gone)) as url, wired(url) as wire:
        answer = await ask(wire, stream=True, leave=leave, patience=0.1)
        await asyncio.wait_for(gone.wait(), 1)
    assert answer.end is (End.TIMED_OUT if leave is None else End.LEFT)


@pytest.mark.slow
async def test_the_simulated_backend():
    asked = msgspec.json.decode(BODY) | {"max_tokens": 5}
    async with simulated(first_token_ms=10, tokens_per_second=50) as (url,), wired(f"{url}/v1") as wire:
        whole, stream = [
            await ask(wire, body=msgspec.json.encode(asked | {"stream": stream}), stream=stream)
            for stream in (False, True)
        ]
    assert (whole.end, whole.tokens, stream.end, stream.tokens) == (End.WHOLE, 5, End.WHOLE, 5), (whole, stream)
    assert sum(n for _, n in stream.gaps) == 4
    assert 0.009 < stream.first - stream.sent < stream.ended - stream.sent
    assert wire.opened == 1


@pytest.mark.slow
async def test_llama_cpp(tmp_path: Path):
    asked = msgspec.json.decode(BODY) | {"max_tokens": 8, "temperature": 0}
    with tiny_llama(tmp_path) as server:
        async with wired(server.base_url) as wire:
            whole, stream = [
                await ask(wire, body=msgspec.json.encode(asked | {"stream": stream}), stream=stream)
                for stream in (False, True)
            ]
            refusal = await ask(wire, body=b'{"messages": 1}')
    assert (whole.end, whole.tokens, stream.end) == (End.WHOLE, 8, End.WHOLE), (whole, stream)
    assert 7 <= stream.tokens <= 8  # a token may have no text of its own
    assert (refusal.end, bool(refusal.code)) == (End.REFUSED, True)
