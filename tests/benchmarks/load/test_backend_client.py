"""The client of the simulated backend's control interface: with the real one, and with what is none."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from benchmarks.load.accounting import Clients, agree_backend
from benchmarks.load.backend_client import BackendError, connect
from benchmarks.service import Service
from tests.benchmarks.load.simulated import simulated

RUN = "0123abcd"


@asynccontextmanager
async def answering(answer: Any, status: int = 200) -> AsyncIterator[str]:
    """A server that answers everything so; its address."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text=answer) if isinstance(answer, str) else web.json_response(answer)

    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        ("no such page", 404, "answered 404: no such page"),
        ("<html>", 200, "this is no simulated backend"),
        ({"service": {"slots": -1}, "replica": 0, "replicas": []}, 200, "this is no simulated backend: .*slots"),
        ({"service": {"places": 4}, "replica": 0, "replicas": []}, 200, "this is no simulated backend: .*places"),
        ({"service": {}, "replica": 0}, 200, "this is no simulated backend: .*replicas"),
    ],
)
async def test_what_is_no_simulated_backend_is_told(answer: Any, status: int, why: str):
    async with answering(answer, status) as address:
        with pytest.raises(BackendError, match=why) as told:
            await connect(f"{address}/v1")
        assert told.value.url == f"{address}/sim"


async def test_what_cannot_be_reached_is_told(unused_tcp_port: int):
    with pytest.raises(BackendError, match=f"127.0.0.1:{unused_tcp_port}/sim: cannot be reached"):
        await connect(f"http://127.0.0.1:{unused_tcp_port}")
    state = {"service": {}, "replica": 0, "replicas": [f"http://127.0.0.1:{unused_tcp_port}"]}
    async with answering(state) as address:
        with pytest.raises(BackendError, match=f"{unused_tcp_port}/sim: cannot be reached"):
            await connect(address)


@pytest.mark.parametrize("url", ["", "127.0.0.1:9100", "ftp://h/", "http:///v1", "http://[::1/v1"])
async def test_what_is_no_url_is_told(url: str):
    with pytest.raises(BackendError, match="this is no URL"):
        await connect(url)


async def test_replicas_that_are_set_differently_are_told():
    async with (
        answering({"service": {"slots": 3}, "replica": 1, "replicas": []}) as second,
        answering({"service": {"slots": 2}, "replica": 0, "replicas": [second]}) as first,
    ):
        with pytest.raises(BackendError, match=f"{second}: is not set as {first} is"):
            await connect(first)


async def test_many_replicas_are_one_backend():
    state = {"service": {"slots": 3, "queue": 5}, "replica": 0, "replicas": []}
    async with answering(state) as address, await connect(f"{address}/v1/") as backend:
        assert backend.urls == [address]
        assert backend.service == backend.whole == Service(slots=3, queue=5)
        backend.urls *= 4
        assert backend.whole == Service(slots=12, queue=20)


async def ask(url: str, number: int, *, limit: float = 10.0) -> bool:
    """Whether an answer came within `limit` seconds."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"#{RUN}.{number} hello"}], "max_tokens": 1}
    try:
        async with (
            asyncio.timeout(limit),
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/chat/completions", json=body) as response,
        ):
            await response.read()
            return response.status == 200
    except TimeoutError:
        return False


@pytest.mark.slow
async def test_all_replicas_are_read_and_set_as_one():
    async with simulated(replicas=2, slots=3, first_token_ms=1) as urls, await connect(f"{urls[1]}/v1") as backend:
        assert backend.urls == urls
        assert (backend.service.slots, backend.whole.slots) == (3, 6)
        await backend.change({"slots": 1, "first_token_ms": 5.0})
        assert (backend.service.slots, backend.service.first_token_ms) == (1, 5.0)
        with pytest.raises(BackendError, match=r"answered 400: .*places"):
            await backend.change({"places": 4})
        with pytest.raises(BackendError, match=r"answered 400: .*slots"):
            await backend.change({"slots": -4})
        async with await connect(urls[0]) as other:
            assert other.service == backend.service
        nothing = await backend.run("ffffffff")
        assert (nothing.counts.arrivals, nothing.rows, nothing.left_out) == (0, [], 0)

        assert await asyncio.gather(*(ask(urls[number % 2], number) for number in range(6))) == [True] * 6
        log = await backend.run(RUN)
        assert sorted(row.number for row in log.rows) == list(range(6))
        assert {row.outcome for row in log.rows} == {"served"}
        assert (log.counts.arrivals, log.counts.served, log.counts.tokens) == (6, 6, 6)
        assert log.counts.busy_seconds == pytest.approx(sum(row.held for row in log.rows)) == pytest.approx(0.03)
        counts, _ = agree_backend(log, Clients(range(6), 6, {}), [range(6)], 2)
        assert counts.agrees, counts.problems


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [True, False])
async def test_work_that_outlives_its_client_is_seen(cancel: bool):
    async with simulated(slots=1, first_token_ms=500, cancel=cancel) as urls, await connect(urls[0]) as backend:
        # The first has the slot, the second waits for it; both clients leave.
        assert not any(await asyncio.gather(ask(urls[0], 0, limit=0.1), ask(urls[0], 1, limit=0.1)))
        gone = dict.fromkeys((0, 1), time.time())
        clients = Clients((), 2, gone)
        at_once = await backend.settle(RUN, limit=0.0)
        log = await backend.settle(RUN)
        assert log.running == 0
        counts, (outlived,) = agree_backend(log, clients, [range(2)], 1)
        assert counts.agrees, counts.problems
        assert counts.cancelled == 2
        assert counts.wasted_seconds == outlived.seconds
        if cancel:
            assert outlived.requests == 0
            assert outlived.seconds < 0.1
        else:
            assert at_once.running == 2
            early, _ = agree_backend(at_once, clients, [range(2)], 1)
            assert early.agrees
            assert early.left_running == 2
            # Of the first, what was left after 0.1 s or a little more; all of the second.
            assert outlived.requests >= 1
            assert 0.5 < outlived.seconds < 0.95
            assert outlived.share == pytest.approx(outlived.seconds / 1.0, rel=0.01)


@pytest.mark.slow
async def test_a_backend_that_ends_is_told():
    async with simulated() as urls:
        backend = await connect(urls[0])
    async with backend:
        for asking in (backend.run(RUN), backend.settle(RUN), backend.change({"slots": 1})):
            with pytest.raises(BackendError, match="cannot be reached"):
                await asking
