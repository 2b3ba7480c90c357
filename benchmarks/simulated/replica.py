"""One replica over HTTP: an OpenAI-compatible server whose answers take as long as its settings say."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import ClientPayloadError, web

from benchmarks.service import Service
from benchmarks.simulated.answers import Answer, Frames
from benchmarks.simulated.asked import MODEL, Asked, decode, error, mark
from benchmarks.simulated.slots import Full, Job, Sizes, Slots

MOST_BYTES = 16 << 20  # of a request's body
_EARLY = 0.0005  # seconds; uvloop's timers are whole milliseconds, and a wake-up this early is early enough
_AT_ONCE = 256  # tokens in one write, which are some 50 KB
_BLOCKED = 0.005  # seconds; a write that takes longer waited for its client to read

_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
_MODELS = msgspec.json.encode(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "headgate"}]}
)

clock = time.monotonic
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Replica:
    """Handles the requests of one port. `unmarked` gives numbers to requests that carry none."""

    def __init__(self, service: Service, unmarked: Iterator[int]) -> None:
        loop = asyncio.get_running_loop()
        self.slots = Slots(service, clock, lambda at, back: loop.call_later(max(at - clock(), 0.0), back))
        self.routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/models": {"GET": _models},
            "/health": {"GET": _health},
        }
        self._unmarked = unmarked
        self._identities = itertools.count()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        methods = self.routes.get(path)
        if methods is None and path.startswith("/sim/runs/"):
            methods = self.routes.get("/sim/runs/")
        if methods is None:
            return error(404, f"there is no {path[:200]} here", "unknown_url")
        handler = methods.get(request.method)
        if handler is None:
            allowed = {"Allow": ", ".join(methods)}
            return error(405, f"{path} takes {allowed['Allow']}, not {request.method}", "method_not_allowed", allowed)
        return await handler(request)

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await request.read()
            asked = decode(body)
        except msgspec.DecodeError as problem:
            return error(400, str(problem), "invalid_request")
        except web.HTTPRequestEntityTooLarge:
            return error(413, f"the body is larger than {MOST_BYTES} bytes", "request_too_large")
        except (ClientPayloadError, web.RequestPayloadError) as problem:
            return error(400, f"the body cannot be read: {problem}", "invalid_request")
        run, number = mark(body) or ("", next(self._unmarked))
        sizes = Sizes(asked.words(), asked.tokens)
        try:
            job = self.slots.arrive(run, number, sizes)
        except Full as full:
            headers = {"Retry-After": str(full.retry_after)}
            return error(503, f"busy: {full.waiting} requests wait already", "overloaded", headers)
        try:
            return await self._serve(request, asked, job)
        finally:
            self.slots.left(job)  # which changes nothing for one that has ended

    async def _serve(self, request: web.BaseRequest, asked: Asked, job: Job) -> web.StreamResponse:
        if job.waits:
            await _turn(job)
        if job.failure is not None:
            return error(job.failure, "this request fails, as the failure rate says", "simulated_failure")
        assert job.course is not None
        finish = "stop" if asked.tokens is None else "length"
        answer = Answer(f"sim{next(self._identities)}", asked.model, finish, job.sizes.words, job.course.tokens)
        if asked.stream:
            return await self._stream(request, job, answer, usage=asked.usage)
        await _until(job.end)
        self.slots.done(job, job.end)
        return web.Response(body=answer.whole(), content_type="application/json")

    async def _stream(self, request: web.BaseRequest, job: Job, answer: Answer, *, usage: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers=_SSE)
        try:
            await response.prepare(request)  # is sent with the first tokens
            await self._send(response, job, answer.frames(), answer.end(usage=usage))
        except ConnectionError:
            response.force_close()  # the client is gone; aiohttp would log what is raised here
        return response

    async def _send(self, response: web.StreamResponse, job: Job, frames: Frames, end: bytes) -> None:
        """Tokens that are due by now go out in one write, the last of them with the end of the stream.

        A client that does not read makes `write` wait, and holds its slot as long.
        """
        course = job.course
        assert course is not None
        sent, on_time = 0, True
        while True:
            await _until(job.start + course.due(sent))
            due = max(course.made(clock() - job.start + _EARLY), sent + 1)
            made = min(due, sent + _AT_ONCE)
            if made == course.tokens and course.due(made - 1) == course.duration:
                break
            on_time &= await _in_time(response.write(frames.joined(sent, made)))
            sent = made
            if sent == course.tokens:  # a single token before a stall
                break
        await _until(job.end)
        on_time &= await _in_time(response.write_eof(frames.joined(sent, course.tokens) + end))
        self.slots.done(job, job.end if on_time else clock())


async def _turn(job: Job) -> None:
    turn = asyncio.get_running_loop().create_future()
    # A client that left in the same loop tick has cancelled the future.
    job.turn = lambda: None if turn.done() else turn.set_result(None)
    await turn


async def _until(at: float) -> None:
    while (left := at - clock()) > _EARLY:
        await asyncio.sleep(left)


async def _in_time(write: Awaitable[None]) -> bool:
    """Whether the client took it at once."""
    began = clock()
    await write
    return clock() - began < _BLOCKED


async def _models(_: web.BaseRequest) -> web.Response:
    return web.Response(body=_MODELS, content_type="application/json")


async def _health(_: web.BaseRequest) -> web.Response:
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")
