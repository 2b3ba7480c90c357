"""OpenAI's dialect: how a chat completion request is read, and which answer it gets."""

from collections.abc import Mapping
from typing import Any

import msgspec
from multidict import MultiMapping

from config.schema import RouteSection
from pipeline.core.errors import HeadgateError
from pipeline.core.ticket import Ticket
from pipeline.edge import decode, head, sse
from pipeline.edge.call import Call
from pipeline.edge.errors import error_json
from pipeline.edge.forward import Routing, text_of
from pipeline.edge.openai_answers import Answering
from pipeline.edge.openai_chunks import ChunkEncoder
from pipeline.edge.openai_types import ChatBody, ChatFields
from pipeline.edge.sinks import EventSink, HttpSink, JsonSink
from pipeline.ingress import Prompt
from workers.base import Parameters

_decoder = msgspec.json.Decoder(ChatBody)


class _Routing(msgspec.Struct, frozen=True):
    """Types are not checked: whoever serves the request will."""

    model: Any = None
    prompt_cache_key: Any = None
    stream: Any = None


_decode_routing = msgspec.json.Decoder(_Routing).decode


class OpenAIRouting:
    """What OpenAI's dialects have in common. `routes` are the server's, by name."""

    def __init__(self, routes: Mapping[str, RouteSection]) -> None:
        self._routes = routes

    def routing(self, headers: MultiMapping[str], body: bytes) -> Routing:
        """See `pipeline.edge.exchange.Dialect`."""
        try:
            fields = _decode_routing(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Routing(session_id=head.session_id(headers))
        session = head.session_id(headers) or text_of(fields.prompt_cache_key)
        return Routing(text_of(fields.model), session, stream=fields.stream is True)

    def broken(self, error: HeadgateError) -> bytes:
        return sse.data(error_json(error))


class ChatDialect(OpenAIRouting):
    """`POST /v1/chat/completions`."""

    path = "/v1/chat/completions"

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        headers = call.headers
        session_id, timeout, gap_limit = head.session_id(headers), head.timeout(headers), head.gap_limit(headers)
        fields = decode.decode(_decoder, body)
        messages = decode.decode_messages(fields.messages)
        prompt = Prompt(
            fields.model,
            messages,
            decode.question_of(messages),
            _parameters(fields),
            bool(fields.stream),
            session_id or fields.prompt_cache_key or None,
            timeout,
            gap_limit,
            body,
            session_in_body=session_id is None and bool(fields.prompt_cache_key),
        )
        return prompt, self._sink(call, ticket, fields)

    def _sink(self, call: Call, ticket: Ticket, fields: ChatFields) -> HttpSink:
        route = self._routes.get(fields.model)
        rename = route is not None and route.rename_model
        cites = route is not None and route.collection is not None
        answering = Answering(call.request_id, fields.model, rename, cites)
        if not fields.stream:
            return JsonSink(call, ticket, answering.compose)
        options = fields.stream_options
        return EventSink(call, ChunkEncoder(answering, usage=options is not None and bool(options.include_usage)))


def _parameters(fields: ChatFields) -> Parameters:
    limit = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    return decode.parameters(
        max_tokens=limit,
        temperature=fields.temperature,
        top_p=fields.top_p,
        stop=fields.stop,
        n=fields.n,
        seed=fields.seed,
    )
