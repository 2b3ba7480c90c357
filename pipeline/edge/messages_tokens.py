"""How many tokens a prompt of Anthropic's Messages has."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from pipeline.core.errors import Forbidden, UnknownModel
from pipeline.edge import decode, head
from pipeline.edge.body import BodyReader
from pipeline.edge.messages_input import chat_messages
from pipeline.edge.messages_types import CountBody, TokenCount
from pipeline.edge.replies import HttpCall, Reply
from pipeline.ingress import Ingress
from workers.base import ChatMessage

_MESSAGE_TOKENS = 4  # what a chat format adds around each message

_decoder = msgspec.json.Decoder(CountBody)


class TokenCounter:
    """`POST /v1/messages/count_tokens`: an estimate, by which the door judges a request too. It is no prompt: nothing
    is admitted, charged or counted for it."""

    path = "/v1/messages/count_tokens"

    def __init__(self, ingress: Ingress, bodies: BodyReader, estimate: Callable[[str], int]) -> None:
        self._ingress = ingress
        self._bodies = bodies
        self._estimate = estimate

    async def handle(self, call: HttpCall) -> web.StreamResponse:
        """Raises `InvalidRequest`."""
        caller = self._ingress.access.caller(head.presented_key(call.headers))
        fields = decode.decode(_decoder, await self._bodies.read(call.request))
        if fields.model not in self._ingress.routes:
            raise UnknownModel(f"The model {fields.model!r} does not exist", param="model")
        if caller.routes is not None and fields.model not in caller.routes:
            raise Forbidden(f"This API key may not use the model {fields.model!r}", param="model")
        tokens = sum([self._tokens(message) for message in chat_messages(fields)])
        tokens += sum([self._estimate(_text(tool)) for tool in fields.tools or ()])
        return Reply(call, msgspec.json.encode(TokenCount(tokens)))

    def _tokens(self, message: ChatMessage) -> int:
        return _MESSAGE_TOKENS + self._estimate(message.text)


def _text(tool: Mapping[str, Any]) -> str:
    """A tool as the model reads it, about."""
    return msgspec.json.encode(tool).decode()
