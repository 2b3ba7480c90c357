"""A worker served by a process of its own: real signals, and what its callers see of them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from tests.certificates import made
from tests.workers.helpers import ask, section, told
from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_backend import Grpc
from workers.grpc_server import serving

ROOT = Path(__file__).parents[2]
Kind = WorkerErrorKind
PROGRAM = """
import asyncio, sys
from workers.grpc_server import run

class Slow:
    def __init__(self):
        self.words = asyncio.Event()

    async def generate(self, request):
        yield "first "
        if request.messages[-1].text == "wait":
            await asyncio.sleep(60)
        if request.messages[-1].text == "soon":
            print("asked", flush=True)
            sys.stdin.readline()
        yield "last"

    async def aclose(self):
        print("closed", flush=True)

run(Slow(), sys.argv[1])
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(15):
            return (await self.process.stdout.readline()).decode().strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def ended(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.wait()


@asynccontextmanager
async def started(address: str = "127.0.0.1:0") -> AsyncIterator[Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, address), cwd=ROOT, env=dict(os.environ), stdin=pipe, stdout=pipe, stderr=pipe
    )
    running = Process(process)
    try:
        line = await running.line()
        assert line.startswith("Serving Slow on "), line
        running.address = line.rpartition(" ")[2]
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def called(address: str, **fields) -> AsyncIterator[Grpc]:
    backend = Grpc(section("grpc", target=address, **fields), address, resolve=lambda _: "sk-shared-1")
    try:
        async with asyncio.timeout(30):
            yield backend
    finally:
        await backend.aclose()


@pytest.mark.slow
async def test_a_process_that_is_killed_in_the_middle_and_comes_back():
    async with started() as first, called(first.address) as backend:
        async with aclosing(backend.generate(ask("wait"))) as batches:
            assert (await anext(batches)).deltas[0].text == "first "
            first.process.send_signal(signal.SIGKILL)
            with pytest.raises(WorkerError) as raised:
                async with asyncio.timeout(2):
                    await anext(batches)
        assert (raised.value.kind, raised.value.retryable) == (Kind.RESET, True)
        await first.ended()
        with pytest.raises(WorkerError) as raised:
            await told(backend, ask())
        assert raised.value.kind is Kind.UNREACHABLE
        assert not (await backend.health()).ok
        async with started(first.address):
            assert (await told(backend, ask())).text == "first last"
            assert (await backend.health()).ok


@pytest.mark.slow
async def test_a_process_that_is_told_to_stop_finishes_what_it_is_at():
    async with started() as running, called(running.address) as backend:
        call = asyncio.create_task(told(backend, ask("soon")))
        assert await running.line() == "asked"
        running.process.send_signal(signal.SIGTERM)
        running.say("go on")
        assert (await call).text == "first last"
        assert await running.line() == "closed"
        assert await running.ended() == 0
        assert running.process.stderr is not None
        assert await running.process.stderr.read() == b""


@pytest.mark.slow
async def test_a_second_signal_ends_it_at_once():
    async with started() as running, called(running.address) as backend:
        async with aclosing(backend.generate(ask("wait"))) as batches:
            await anext(batches)
            running.process.send_signal(signal.SIGTERM)
            while (await backend.health()).ok:
                await asyncio.sleep(0.01)
            running.process.send_signal(signal.SIGINT)
            with pytest.raises(WorkerError) as raised:
                await anext(batches)
            assert raised.value.retryable
        assert await running.line() == "closed"
        assert await running.ended() == 0


class Small:
    closed = 0

    async def generate(self, request):
        if request.messages[-1].text == "odd":
            yield 5
        if request.messages[-1].text == "boom":
            raise ValueError("sk-shared-1 is in here")
        yield request.session_id or "none"

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_port_is_served_once():
    async with serving(Small(), "127.0.0.1:0") as server:
        with pytest.raises(OSError, match="cannot serve"):
            async with serving(Small(), server.address):
                pass


async def test_a_token_is_asked_for():
    async with serving(Small(), "127.0.0.1:0", token="sk-shared-1") as server:
        async with called(server.address, api_key="env:KEY") as backend:
            assert (await told(backend, ask())).text == "none"
        for resolved in ("sk-shared-2", "", "sk-shared-1x"):
            given = section("grpc", target=server.address, api_key="env:KEY")
            backend = Grpc(given, server.address, resolve=lambda _, secret=resolved: secret)
            with pytest.raises(WorkerError) as raised:
                await told(backend, ask())
            assert raised.value.kind is Kind.AUTH
            await backend.aclose()


@pytest.mark.slow
async def test_over_tls(tmp_path):
    files = made(tmp_path, "own")
    worker = Small()
    async with serving(worker, "localhost:0", certificate=files.certificate, key=files.key) as server:
        async with called(server.address, tls=True, ca_file=str(files.certificate)) as backend:
            assert (await told(backend, ask())).text == "none"
        async with called(server.address) as backend:
            with pytest.raises(WorkerError) as raised:
                await told(backend, ask())
            assert raised.value.kind in (Kind.UNREACHABLE, Kind.RESET)
    assert worker.closed == 1


async def test_what_a_worker_does_wrong_is_told_and_not_repeated():
    async with serving(Small(), "127.0.0.1:0") as server, called(server.address) as backend:
        with pytest.raises(WorkerError) as raised:
            await told(backend, ask("odd"))
        assert raised.value.kind is Kind.PROTOCOL
        assert "yielded a int" in raised.value.message
        with pytest.raises(WorkerError) as raised:
            await told(backend, ask("boom"))
        assert (raised.value.kind, raised.value.retryable) == (Kind.UNAVAILABLE, True)
        assert "ValueError" in raised.value.message
        assert "sk-shared-1" not in raised.value.message


async def test_hundred_calls_over_one_connection():
    async with serving(Small(), "127.0.0.1:0") as server, called(server.address) as backend:
        answers = await asyncio.gather(*[told(backend, ask(stream=bool(at % 2))) for at in range(100)])
        assert {answer.text for answer in answers} == {"none"}
