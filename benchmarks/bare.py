"""The yardstick: an aiohttp server that answers what Headgate's `echo` route answers, and does nothing else.

`python -m benchmarks.bare MODE`, with MODE `json` (one object), `tick` (a frame per write, a loop tick between) or
`eight` (eight frames per write). Prints its port when it listens.
"""

import asyncio
import sys
from typing import Any

import msgspec
import uvloop
from aiohttp import web

TOKENS = 64
WORD = "word "
_decode = msgspec.json.Decoder(dict[str, Any])


def frame(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One SSE frame, of the fields and size that Headgate sends."""
    chunk = {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "echo",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def writes(size: int) -> list[bytes]:
    """The frames of an answer of `TOKENS` tokens, joined by `size`."""
    frames = [frame({"role": "assistant", "content": WORD})] + [frame({"content": WORD}) for _ in range(TOKENS - 2)]
    frames.append(frame({"content": WORD}, "stop"))
    joined = [b"".join(frames[at : at + size]) for at in range(0, len(frames), size)]
    joined[-1] += b"data: [DONE]\n\n"
    return joined


async def answer_json(request: web.Request) -> web.Response:
    body = _decode.decode(await request.read())
    text = body["messages"][-1]["content"]
    completion = {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
    return web.Response(body=msgspec.json.encode(completion), content_type="application/json")


def answer_stream(size: int) -> Any:
    parts = writes(size)

    async def handler(request: web.Request) -> web.StreamResponse:
        _decode.decode(await request.read())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0)
        return response

    return handler


async def main(mode: str) -> None:
    handler = {"json": answer_json, "tick": answer_stream(1), "eight": answer_stream(8)}[mode]
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
