"""Targets that behave as told, in the test's own loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

ANSWER = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "hello"}}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, *, metrics: Handler | None = None) -> AsyncIterator[str]:
    """The base URL of a server that answers chat completions with `handler`."""
    app = web.Application()
    if metrics is not None:
        app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def after(seconds: float) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(seconds)
        return web.json_response(ANSWER)

    return handler


def stalling(begin: float, end: float) -> Handler:
    """Answers at once, but not between `begin` and `end` seconds after its first request."""
    first: list[float] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        first.append(now)
        await request.read()
        if begin <= now - first[0] < end:
            await asyncio.sleep(first[0] + end - now)
        return web.json_response(ANSWER)

    return handler


def refusing(status: int, headers: dict[str, str]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": {"message": "no", "code": "overloaded"}}, status=status, headers=headers)

    return handler
