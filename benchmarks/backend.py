"""A backend for measuring: an OpenAI-compatible server that streams `TOKENS` tokens at `RATE` a second.

`python -m benchmarks.backend RATE TOKENS`; prints its port when it listens.
"""

import asyncio
import sys
import time

import uvloop
from aiohttp import web

from benchmarks.bare import WORD, frame


def paced(rate: float, tokens: int) -> web.Application:
    frames = [frame({"content": WORD}) for _ in range(tokens - 1)]
    frames.append(frame({"content": WORD}, "stop") + b"data: [DONE]\n\n")

    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        began = time.monotonic()
        for position, part in enumerate(frames):
            await response.write(part)
            await asyncio.sleep(max(0.0, began + (position + 1) / rate - time.monotonic()))
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    return app


async def main(rate: float, tokens: int) -> None:
    runner = web.AppRunner(paced(rate, tokens), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]), int(sys.argv[2])))
