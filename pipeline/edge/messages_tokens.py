"""How many tokens a prompt of Anthropic's Messages has."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import msgspec
from aiohttp import web

from pipeline.core.errors import Forbidden, UnknownModel
from pipeline.edge import decode, head
from pipeline.edge.body import BodyReader
from pipeline.edge.messages_input import chat_body, chat_messages
from pipeline.edge.messages_types import CountBody, MessagesBody, TokenCount
from pipeline.edge.replies import HttpCall, Reply
from pipeline.ingress import Ingress
from pipeline.stages.prompt import MESSAGE_TOKENS, Counter
from workers.base import ChatMessage, GenerationRequest, Parameters

_WITHIN = 1.0  # seconds in which a backend may say how many tokens a prompt has
_AT_ONCE = 32  # backends are asked, so that counting takes nothing from their answers
_INLINE_CHARS = 64 * 1024  # of an estimate, on the event loop

_decoder = msgspec.json.Decoder(CountBody)


class TokenCounter:
    """`POST /v1/messages/count_tokens`: as the first worker of the route counts, by its tokenizer or by asking its
    server, else an estimate. It is no prompt: nothing is admitted, charged or counted for it."""

    path = "/v1/messages/count_tokens"

    def __init__(self, ingress: Ingress, bodies: BodyReader, estimate: Callable[[str], int]) -> None:
        self._ingress = ingress
        self._bodies = bodies
        self._estimate = estimate
        self._asking = 0

    async def handle(self, call: HttpCall) -> web.StreamResponse:
        """Raises `InvalidRequest`."""
        caller = self._ingress.access.caller(head.presented_key(call.headers))
        fields = decode.decode(_decoder, await self._bodies.read(call.request))
        if fields.model not in self._ingress.routes:
            raise UnknownModel(f"The model {fields.model!r} does not exist", param="model")
        if caller.routes is not None and fields.model not in caller.routes:
            raise Forbidden(f"This API key may not use the model {fields.model!r}", param="model")
        messages = chat_messages(fields)
        plan = self._ingress.plan(fields.model)
        counter = None if plan is None else plan.counter
        tokens = None
        if counter is not None and counter.asks and self._asking < _AT_ONCE:
            tokens = await self._asked(counter, call.request_id, fields, messages)
        if tokens is None:
            tokens = await self._counted(counter, fields, messages)
        return Reply(call, msgspec.json.encode(TokenCount(tokens)))

    async def _asked(
        self, counter: Counter, request_id: str, fields: CountBody, messages: tuple[ChatMessage, ...]
    ) -> int | None:
        whole = MessagesBody(**msgspec.structs.asdict(fields), max_tokens=1)
        body = chat_body(whole, messages)
        self._asking += 1
        try:
            asked = GenerationRequest(
                request_id, None, fields.model, messages, Parameters(), stream=False, body=body, rewritten=False
            )
            return await counter.ask(asked, _WITHIN)
        finally:
            self._asking -= 1

    async def _counted(self, counter: Counter | None, fields: CountBody, messages: Sequence[ChatMessage]) -> int:
        """Long texts in a thread."""
        texts = [message.text for message in messages] + [_text(tool) for tool in fields.tools or ()]
        count, factor, inline = self._estimate, 1.0, _INLINE_CHARS
        if counter is not None:
            count, factor, inline = counter.count, counter.factor, counter.inline_chars

        def counted() -> int:
            return ceil(factor * (MESSAGE_TOKENS * len(messages) + sum([count(text) for text in texts])))

        long = sum([len(text) for text in texts]) > inline
        return await asyncio.to_thread(counted) if long else counted()


def _text(tool: Mapping[str, Any]) -> str:
    """A tool as the model reads it, about."""
    return msgspec.json.encode(tool).decode()
