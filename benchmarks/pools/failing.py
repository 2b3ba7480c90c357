"""A model backend that fails the calls that it is told to fail: `python -m benchmarks.pools.failing CALLS`.

CALLS is `8-26`, the first and the last of them, counted from 1 as they come; `odd`, every other one; or `none`. A
failure is a 500. Prints its URL when it listens, and ends with the process that started it. `GET /calls` answers
`[[seconds, failed], …]`, every call so far with the moment that it came, by the clock of the machine.
"""

import asyncio
import sys
import time
from collections.abc import Callable

import msgspec
import uvloop
from aiohttp import web

from benchmarks.simulated.answers import Answer
from benchmarks.simulated.asked import decode, error

Fails = Callable[[int], bool]
_TOKENS = 4
_TAKES = 0.005  # seconds of an answer


def fails(calls: str) -> Fails:
    """Raises ValueError."""
    if calls == "none":
        return lambda _number: False
    if calls == "odd":
        return lambda number: number % 2 == 1
    first, _, last = calls.partition("-")
    span = range(int(first), int(last) + 1)
    return lambda number: number in span


class Failing:
    """`fails` says which calls fail, by their number from 1."""

    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self._calls: list[tuple[float, bool]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1/chat/completions":
            return await self._chat(request)
        if request.path == "/calls":
            return web.Response(body=msgspec.json.encode(self._calls), content_type="application/json")
        if request.path == "/v1/models":
            return web.Response(body=b'{"object":"list","data":[]}', content_type="application/json")
        return error(404, f"there is no {request.path[:200]} here", "unknown_url")

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = decode(await request.read())
        failed = self._fails(len(self._calls) + 1)
        self._calls.append((time.monotonic(), failed))
        if failed:
            return error(500, "this call fails, as its number says", "simulated_failure")
        await asyncio.sleep(_TAKES)
        answer = Answer(f"call{len(self._calls)}", asked.model, "stop", asked.words(), _TOKENS)
        if not asked.stream:
            return web.Response(body=answer.whole(), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write_eof(answer.frames().joined(0, _TOKENS) + answer.end(usage=asked.usage))
        return response


async def main(calls: str) -> None:
    runner = web.ServerRunner(web.Server(Failing(fails(calls)), access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # to its end: whoever started this has gone
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
