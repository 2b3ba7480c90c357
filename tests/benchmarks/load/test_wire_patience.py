"""Answers that come too late, or never end."""

import asyncio

import pytest

from benchmarks.load import wire_connection
from benchmarks.load.answer import End
from tests.benchmarks.load.asking import STREAM, STREAM_HEAD, THREE, answer_to, ask, wired
from tests.servers import (
    LAST_CHUNK,
    Exchange,
    Script,
    ScriptedBackend,
    chunk,
    events,
    head,
    http_chunk,
    says_and_waits,
)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200", head(200, "application/json", Content_Length="10") + b"{"])
async def test_an_answer_that_never_comes(begin: bytes):
    patience = 0.05
    async with ScriptedBackend(says_and_waits(begin)) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, patience=patience)
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
    assert (answer.end, answer.status) == (End.TIMED_OUT, 200 if begin.endswith(b"{") else 0)
    assert patience - 0.005 <= answer.ended - answer.sent < 1.0


async def test_a_stream_that_is_too_slow():
    script = says_and_waits(STREAM_HEAD + http_chunk(events(chunk("a"), chunk(finish="stop"), done=False)))
    answer = await answer_to(script, stream=True, patience=0.05)
    assert (answer.end, answer.tokens) == (End.TIMED_OUT, 1)


async def test_a_deadline_that_has_passed_sends_nothing():
    async with ScriptedBackend() as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, patience=-0.001)
        assert (answer.end, answer.sent, backend.connections) == (End.TIMED_OUT, 0.0, 0)


@pytest.mark.parametrize("script", [says_and_waits(STREAM[:-2]), says_and_waits(head() + events(*THREE))])
async def test_a_body_that_does_not_end_after_done(script: Script, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire_connection, "GRACE", 0.05)
    answer = await answer_to(script, stream=True)
    assert (answer.end, answer.tokens) == (End.BROKEN, 3)
    assert answer.detail == "the body did not end within 0.05 s of [DONE]"


async def test_a_body_that_ends_a_little_after_done():
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM[: -len(LAST_CHUNK)])
        await asyncio.sleep(0.02)
        await exchange.send(LAST_CHUNK)

    assert (await answer_to(script, stream=True)).end is End.WHOLE
