"""The native dialect: how a prompt is read, and the events of its answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET
from multidict import MultiMapping

from config.schema import RouteSection
from pipeline.core.errors import HeadgateError, InvalidRequest
from pipeline.core.messages import PostOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.edge import decode, head, sse
from pipeline.edge.call import Call
from pipeline.edge.citations import citations
from pipeline.edge.errors import MissingParameter, error_json
from pipeline.edge.forward import Routing, text_of
from pipeline.edge.native_types import (
    Accepted,
    CutCounts,
    Done,
    PromptBody,
    Retrieved,
    Sampling,
    StageTiming,
    Timings,
    TokenUsage,
)
from pipeline.edge.sinks import EventSink, HttpSink
from pipeline.ingress import Prompt
from workers.base import ChatMessage, Parameters, Usage

encode = msgspec.json.encode
_decoder = msgspec.json.Decoder(PromptBody)
_defaults = Sampling()


class _Routing(msgspec.Struct, frozen=True):
    """Types are not checked: whoever serves the request will."""

    route: Any = None
    session_id: Any = None
    timeout_ms: Any = None


_decode_routing = msgspec.json.Decoder(_Routing).decode


class PromptDialect:
    """`POST /v1/prompts`. `routes` are the server's, by name."""

    path = "/v1/prompts"

    def __init__(self, routes: Mapping[str, RouteSection]) -> None:
        self._routes = routes

    def routing(self, headers: MultiMapping[str], body: bytes) -> Routing:
        """See `pipeline.edge.exchange.Dialect`."""
        try:
            fields = _decode_routing(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Routing(session_id=head.session_id(headers))
        timeout = fields.timeout_ms / 1000 if isinstance(fields.timeout_ms, int) else None
        return Routing(
            text_of(fields.route), text_of(fields.session_id) or head.session_id(headers), timeout, stream=True
        )

    def broken(self, error: HeadgateError) -> bytes:
        return sse.event(b"error", error_json(error))

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        headers = call.headers
        session_id, timeout, gap_limit = head.session_id(headers), head.timeout(headers), head.gap_limit(headers)
        fields = decode.decode(_decoder, body)
        messages = _messages(fields)
        prompt = Prompt(
            fields.route,
            messages,
            decode.question_of(messages),
            _parameters(fields.parameters or _defaults),
            stream=True,
            session_id=fields.session_id or session_id,
            session_in_body=bool(fields.session_id),
            timeout=timeout if fields.timeout_ms is None else fields.timeout_ms / 1000,
            gap_limit=gap_limit,
        )
        route = self._routes.get(fields.route)
        retrieves = route is not None and route.collection is not None
        return prompt, EventSink(call, NativeEncoder(ticket, retrieves=retrieves))


class NativeEncoder:
    """One answer as events: `accepted`, `retrieved` where the route has a collection, `delta` …, `usage` where the
    backend counted, `done`; or `error`, after which nothing follows."""

    def __init__(self, ticket: Ticket, *, retrieves: bool) -> None:
        self._ticket = ticket
        self._retrieves = retrieves
        self._lead = b""
        self._finish_reason = "stop"

    def begin(self, message: PostOutput) -> None:
        request, ticket = message.request, self._ticket
        limit = round(1000 * (request.deadline - ticket.arrived))
        accepted = Accepted(request.request_id, request.session_id, request.route, limit)
        self._lead = sse.event(b"accepted", encode(accepted))
        if self._retrieves:
            assembled = message.before.before
            retrieved = Retrieved(
                citations(assembled.passages),
                assembled.before.degraded,
                CutCounts(assembled.cut.passages, assembled.cut.turns),
            )
            self._lead += sse.event(b"retrieved", encode(retrieved))

    def deltas(self, answer: Answer) -> bytes:
        lead, self._lead = self._lead, b""
        frames = [lead]
        for delta in answer.deltas:
            if delta.text:
                frames.append(b'event: delta\ndata: {"text":%b,"index":%d}\n\n' % (encode(delta.text), delta.index))
            if delta.finish_reason is not None:
                self._finish_reason = delta.finish_reason
        return b"".join(frames)

    def finish(self, usage: Usage | None) -> bytes:
        frames = self._lead
        if usage is not None:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            tokens = TokenUsage(prompt, completion, prompt + completion)
            frames += sse.event(b"usage", encode(tokens))
        return frames + sse.event(b"done", encode(Done(self._finish_reason, _timings(self._ticket))))

    def error(self, error: HeadgateError) -> bytes:
        return sse.event(b"error", error_json(error))


def _messages(fields: PromptBody) -> tuple[ChatMessage, ...]:
    if fields.messages is not UNSET:
        if fields.prompt is not UNSET:
            raise InvalidRequest("Give either 'prompt' or 'messages', not both.", param="prompt")
        return decode.decode_messages(fields.messages)
    if fields.prompt is UNSET:
        raise MissingParameter("Missing required parameter: 'prompt' or 'messages'.", param="prompt")
    return (ChatMessage("user", fields.prompt),)


def _parameters(sampling: Sampling) -> Parameters:
    return decode.parameters(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=sampling.stop,
        n=None,
        seed=sampling.seed,
    )


def _timings(ticket: Ticket) -> Timings:
    places = (Place.RAG, Place.ASSEMBLE, Place.INFERENCE, Place.POST)
    return Timings(*[StageTiming(_ms(ticket.sojourn[place]), _ms(ticket.service[place])) for place in places])


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
