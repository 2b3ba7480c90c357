"""OpenAI's embeddings: how a request is read, and which answer it gets."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from multidict import MultiMapping

from config.schema import RouteSection
from pipeline.core.errors import HeadgateError, InvalidRequest
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.edge import decode, head, sse
from pipeline.edge.call import Call
from pipeline.edge.embeddings_types import INPUTS_MAX, TOKEN_MAX, EmbeddingBody
from pipeline.edge.errors import InvalidType, error_json
from pipeline.edge.forward import Routing, text_of
from pipeline.edge.openai_answers import decode_fields, encode
from pipeline.edge.sinks import HttpSink, JsonSink
from pipeline.ingress import Prompt
from workers.base import EmbeddingRequest, Parameters, Usage

Inputs = tuple[str | tuple[int, ...], ...]

_decoder = msgspec.json.Decoder(EmbeddingBody)
_nothing = Parameters()


class _Routing(msgspec.Struct, frozen=True):
    """Types are not checked: whoever serves the request will."""

    model: Any = None


_decode_routing = msgspec.json.Decoder(_Routing).decode


class EmbeddingDialect:
    """`POST /v1/embeddings`. `routes` are the server's, by name."""

    path = "/v1/embeddings"

    def __init__(self, routes: Mapping[str, RouteSection]) -> None:
        self._routes = routes

    def routing(self, headers: MultiMapping[str], body: bytes) -> Routing:
        """See `pipeline.edge.exchange.Dialect`."""
        session = head.session_id(headers)
        try:
            return Routing(text_of(_decode_routing(body).model), session)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Routing(session_id=session)

    def broken(self, error: HeadgateError) -> bytes:
        return sse.data(error_json(error))

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        headers = call.headers
        session_id, timeout, gap_limit = head.session_id(headers), head.timeout(headers), head.gap_limit(headers)
        fields = decode.decode(_decoder, body)
        asked = EmbeddingRequest(
            call.request_id,
            fields.model,
            _inputs(fields.input),
            fields.dimensions,
            body=body,
            encoding=fields.encoding_format or "float",
        )
        prompt = Prompt(
            fields.model, (), "", _nothing, stream=False, session_id=session_id, timeout=timeout, gap_limit=gap_limit
        )
        route = self._routes.get(fields.model)
        rename = route is not None and route.rename_model
        sink = JsonSink(call, ticket, _Composer(fields.model if rename else None))
        return msgspec.structs.replace(prompt, embedding=asked), sink


class _Composer:
    """The list object, which the worker has made or its backend has; it names `model`, where that is not None."""

    def __init__(self, model: str | None) -> None:
        self._model = model

    def __call__(self, message: PostOutput, answers: Sequence[Answer], usage: Usage | None) -> bytes:  # noqa: ARG002
        body = next(answer.body for answer in answers if answer.body)
        if self._model is None:
            return body
        fields = decode_fields(body)
        fields["model"] = Raw(encode(self._model))
        return encode(fields)


def _inputs(given: str | list[Any]) -> Inputs:
    """A text, texts, the tokens of one text, or of several. Raises `InvalidRequest`."""
    if isinstance(given, str):
        return (_text(given, "input"),)
    if not given:
        raise InvalidRequest("Invalid value for 'input': an empty list.", param="input")
    if isinstance(given[0], int):
        return (_tokens(given, "input"),)
    if len(given) > INPUTS_MAX:
        raise InvalidRequest(
            f"Invalid value for 'input': expected at most {INPUTS_MAX} inputs, got {len(given)}.", param="input"
        )
    kind = _tokens if isinstance(given[0], list) else _text
    return tuple([kind(value, f"input[{position}]") for position, value in enumerate(given)])


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"Invalid value for '{where}': expected a text like the others.", param=where)
    if not value:
        raise InvalidRequest(f"Invalid value for '{where}': an empty text has no embedding.", param=where)
    return value


def _tokens(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidType(f"Invalid value for '{where}': expected a list of token ids.", param=where)
    for position, token in enumerate(value):
        if token.__class__ is not int or not 0 <= token <= TOKEN_MAX:
            where = f"{where}[{position}]"
            raise InvalidType(f"Invalid value for '{where}': expected a token id.", param=where)
    return tuple(value)
