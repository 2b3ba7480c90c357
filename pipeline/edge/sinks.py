"""Where answers go: an event stream, or one JSON object. The handler waits for the sink that it has submitted."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol, cast

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.outcomes import STAGES
from pipeline.core.ports import Answer, OutputSink
from pipeline.core.ticket import Ticket
from pipeline.edge.call import Call, Response, cut_field
from pipeline.edge.replies import JSON_FIELD, refusal
from pipeline.edge.sse import COMMENT, Encoder
from workers.base import Usage


class HttpSink(OutputSink, Protocol):
    """A sink that makes a response of what it is given, or of the error."""

    async def response(self) -> Response:
        """Waits until the answer has ended. To be awaited by the request's handler, whose cancellation means that the
        client has gone."""
        ...


class Composer(Protocol):
    """A dialect's whole answer as JSON, for an answer that is not streamed."""

    def __call__(self, message: PostOutput, answers: list[Answer], usage: Usage | None) -> bytes: ...


class JsonSink:
    """Gathers an answer and gives it out as one JSON object."""

    def __init__(self, call: Call, ticket: Ticket, compose: Composer) -> None:
        self._call = call
        self._ticket = ticket
        self._compose = compose
        self._answers: list[Answer] = []
        self._body = b""
        self._message: PostOutput | None = None
        self._over: asyncio.Future[HeadgateError | None] = call.edge.loop.create_future()

    def begin(self, message: PostOutput) -> None:
        self._message = message

    def write(self, answer: Answer) -> None:
        self._answers.append(answer)

    def finish(self, usage: Usage | None) -> None:
        if self._message is not None:
            self._body = self._compose(self._message, self._answers, usage)
        self._end(None)

    def fail(self, error: HeadgateError) -> None:
        self._end(error)

    async def response(self) -> Response:
        error = await self._over
        if error is not None:
            return refusal(self._call, error)
        cut = "" if self._message is None else cut_field(self._message)
        return self._call.reply(self._body, JSON_FIELD + cut + _timing(self._ticket))

    def _end(self, error: HeadgateError | None) -> None:
        if not self._over.done():
            self._over.set_result(error)


class EventSink:
    """Writes an answer as server-sent events while it comes.

    The status line is held until the first delta, so that a failure until then has its own status; at most
    `hold_max_ms`, then the head goes out with a comment, and so does a comment every `keepalive_comment_ms` until the
    first delta. From then on a failure is an event.
    """

    def __init__(self, call: Call, encoder: Encoder) -> None:
        self._call = call
        self._encoder = encoder
        self._reply = call.events()
        self._loop = call.edge.loop
        self._error: HeadgateError | None = None
        self._begun = False
        self._over = False
        self._signal = self._loop.create_future()
        self._hold = self._loop.call_later(call.edge.server.hold_max_ms / 1000, self._wake)

    def begin(self, message: PostOutput) -> None:
        self._begun = True
        self._hold.cancel()
        self._reply.fields += cut_field(message)
        self._encoder.begin(message)

    def write(self, answer: Answer) -> Awaitable[None] | None:
        frames = self._encoder.deltas(answer)
        return self._reply.send(frames) if frames else None

    def finish(self, usage: Usage | None) -> Awaitable[None] | None:
        pending = self._reply.end(self._encoder.finish(usage))
        if pending is not None:
            return self._finish(pending)
        self._end()
        return None

    def fail(self, error: HeadgateError) -> None:
        if not self._over:
            self._error = error
            self._end()

    async def response(self) -> Response:
        try:
            while not self._over:
                await self._signal
                self._signal = self._loop.create_future()
                if not (self._begun or self._over):
                    self._keep_alive()
        finally:
            self._hold.cancel()
        if self._error is None:
            return cast(Response, self._reply)
        if not self._reply.opened:
            return refusal(self._call, self._error)
        with suppress(ConnectionError):
            self._reply.break_off(self._encoder.error(self._error))
        return cast(Response, self._reply)

    def _keep_alive(self) -> None:
        if not self._reply.paused:
            self._reply.send(COMMENT)
        self._hold = self._loop.call_later(self._call.edge.server.keepalive_comment_ms / 1000, self._wake)

    async def _finish(self, pending: Awaitable[None]) -> None:
        await pending
        self._end()

    def _end(self) -> None:
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if not self._signal.done():
            self._signal.set_result(None)


_TIMING = f"Server-Timing: {', '.join(f'{stage.label}_q;dur=%.2f, {stage.label};dur=%.2f' for stage in STAGES)}\r\n"


def _timing(ticket: Ticket) -> str:
    """How long the request waited for each stage and was in it, in milliseconds (`Server-Timing`, W3C)."""
    rag_q, assemble_q, inference_q, post_q, stream_q = ticket.sojourn
    rag, assemble, inference, post, stream = ticket.service
    return _TIMING % (
        1e3 * rag_q,
        1e3 * rag,
        1e3 * assemble_q,
        1e3 * assemble,
        1e3 * inference_q,
        1e3 * inference,
        1e3 * post_q,
        1e3 * post,
        1e3 * stream_q,
        1e3 * stream,
    )
