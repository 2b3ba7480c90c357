"""A refused request is freed at once: under overload what is left to the collector is what a process grows by."""

import asyncio
import gc

import aiohttp

from tests.flows import config
from tests.http import serving

ECHO = {"name": "echo", "kind": "echo", "first_token_ms": 20, "concurrency": 1}


async def test_refusals_leave_nothing_to_the_collector():
    conf = config(workers=[ECHO], admission={"wait_budget_ms": 30, "head_gate": False})
    async with serving(conf) as server, aiohttp.ClientSession() as session:

        async def ask() -> int:
            body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
            async with session.post(f"{server.base_url}/chat/completions", json=body) as response:
                await response.read()
                return response.status

        async def wave(times: int) -> list[int]:
            return [status for _ in range(times) for status in await asyncio.gather(*[ask() for _ in range(20)])]

        await wave(3)
        server.books.opened.clear()
        server.books.ended.clear()
        gc.collect()
        gc.disable()
        try:
            statuses = await wave(10)
            server.books.opened.clear()
            server.books.ended.clear()
            assert statuses.count(503) > 100
            assert gc.collect() < statuses.count(503)
        finally:
            gc.enable()
