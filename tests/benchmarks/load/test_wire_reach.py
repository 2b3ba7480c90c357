"""No connection, and very many."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest
from aiohttp import web

from benchmarks.load import wire as wire_module
from benchmarks.load.answer import End
from tests.benchmarks.load.asking import OK, ask, wired
from tests.benchmarks.load.targets import ANSWER, serving
from tests.servers import (
    ScriptedBackend,
    says,
    says_and_waits,
)


async def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with wired(f"http://127.0.0.1:{port}/v1") as wire:
        answer = await ask(wire)
    assert (answer.end, answer.sent, answer.connection_error) == (End.UNREACHABLE, 0.0, True)
    assert "111" in answer.detail
    assert answer.ended > 0


async def test_an_unknown_host():
    async with wired("http://no-such-host.invalid/v1") as wire:
        answer = await ask(wire)
    assert answer.end is End.UNREACHABLE
    assert answer.detail


@pytest.fixture
async def deaf() -> AsyncIterator[str]:
    """A host that does not answer a request for a connection: its queue of them is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()


async def test_a_connection_that_takes_too_long(deaf: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire_module, "CONNECT_WITHIN", 0.05)
    async with wired(deaf) as wire:
        answer = await ask(wire)
    assert (answer.end, answer.sent, answer.detail) == (End.UNREACHABLE, 0.0, "no connection within 0.05 s")


async def test_waiting_for_a_connection_counts(deaf: str):
    async with wired(deaf) as wire:
        began = monotonic()
        timed_out, left = await asyncio.gather(ask(wire, patience=0.05), ask(wire, leave_in=0.05))
        assert 0.04 < monotonic() - began < 1
        assert (timed_out.end, timed_out.sent) == (End.TIMED_OUT, 0.0)
        assert (left.end, left.sent) == (End.LEFT, 0.0)
        asking = asyncio.ensure_future(ask(wire))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (wire.opened, wire.open_connections, wire._pool.connecting) == (0, 0, 0)


async def test_as_many_connections_as_allowed():
    async with ScriptedBackend(says_and_waits(b"")) as backend, wired(backend.base_url, max_connections=2) as wire:
        waiting = [asyncio.ensure_future(ask(wire)) for _ in range(2)]
        await asyncio.sleep(0)
        answer = await ask(wire)
        assert (answer.end, answer.sent) == (End.UNREACHABLE, 0.0)
        assert answer.detail == "2 connections are open, as many as this client may have"
        await backend.until(lambda backend: len(backend.exchanges) == 2)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        backend.script = says(OK)
        assert (await ask(wire)).end is End.WHOLE


@contextmanager
def open_files(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_too_many_open_files():
    async with ScriptedBackend(says(OK)) as backend, wired(backend.base_url) as wire:
        with open_files(max(int(name) for name in os.listdir("/proc/self/fd")) + 1):  # noqa: PTH208
            spare: list[int] = []
            with suppress(OSError):  # too many
                while True:
                    spare.append(os.dup(0))
            try:
                answer = await ask(wire)
            finally:
                for each in spare:
                    os.close(each)
        assert (answer.end, answer.sent) == (End.STOPPED, 0.0)  # our own shortage is not the target's fault
        assert "oo many open files" in answer.detail
        assert (await ask(wire)).end is End.WHOLE


@pytest.mark.slow
async def test_thousands_at_once():
    many = 2000
    everybody = asyncio.Barrier(many)

    async def handler(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return web.json_response(ANSWER)

    with open_files(min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)):
        async with serving(handler) as url, wired(url) as wire:
            for _ in range(2):
                answers = await asyncio.gather(*(ask(wire, patience=30) for _ in range(many)))
                assert {answer.end for answer in answers} == {End.WHOLE}
            assert (wire.opened, wire.peak, wire.open_connections) == (many, many, many)
            assert "aiohttp" in wire.server
