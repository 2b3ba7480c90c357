"""Anthropic's dialect: how a request for a message is read, and which answer it gets."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from multidict import MultiMapping

from config.schema import RouteSection
from pipeline.core.errors import HeadgateError
from pipeline.core.ticket import Ticket
from pipeline.edge import decode, head, sse
from pipeline.edge.call import Call
from pipeline.edge.forward import Routing, text_of
from pipeline.edge.messages_answers import compose
from pipeline.edge.messages_chat import Answering
from pipeline.edge.messages_errors import message_error
from pipeline.edge.messages_events import MessageEncoder
from pipeline.edge.messages_input import chat_body, chat_messages
from pipeline.edge.messages_types import MessagesBody
from pipeline.edge.sinks import EventSink, HttpSink, JsonSink
from pipeline.ingress import Prompt

_decoder = msgspec.json.Decoder(MessagesBody)


class _Routing(msgspec.Struct, frozen=True):
    """Types are not checked: whoever serves the request will."""

    model: Any = None
    stream: Any = None


_decode_routing = msgspec.json.Decoder(_Routing).decode


class MessagesDialect:
    """`POST /v1/messages`. `routes` are the server's, by name."""

    path = "/v1/messages"

    def __init__(self, routes: Mapping[str, RouteSection]) -> None:
        self._routes = routes

    def routing(self, headers: MultiMapping[str], body: bytes) -> Routing:
        """See `pipeline.edge.exchange.Dialect`."""
        session = head.session_id(headers)
        try:
            fields = _decode_routing(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Routing(session_id=session)
        return Routing(text_of(fields.model), session, stream=fields.stream is True)

    def broken(self, error: HeadgateError) -> bytes:
        return sse.event(b"error", message_error(error, None))

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        headers = call.headers
        session_id, timeout, gap_limit = head.session_id(headers), head.timeout(headers), head.gap_limit(headers)
        fields = decode.decode(_decoder, body)
        messages = chat_messages(fields)
        parameters = decode.parameters(
            max_tokens=fields.max_tokens,
            temperature=fields.temperature,
            top_p=fields.top_p,
            stop=fields.stop_sequences,
            n=None,
            seed=None,
        )
        prompt = Prompt(
            fields.model,
            messages,
            decode.question_of(messages),
            parameters,
            bool(fields.stream),
            session_id,
            timeout,
            gap_limit,
            chat_body(fields, messages),
            native=body,
            native_dialect="messages",
        )
        return prompt, self._sink(call, ticket, fields)

    def _sink(self, call: Call, ticket: Ticket, fields: MessagesBody) -> HttpSink:
        route = self._routes.get(fields.model)
        rename = route is not None and route.rename_model
        cites = route is not None and route.collection is not None
        answering = Answering(call.request_id, fields.model, rename, cites)
        if fields.stream:
            return EventSink(call, MessageEncoder(answering))
        return JsonSink(call, ticket, partial(compose, answering))
