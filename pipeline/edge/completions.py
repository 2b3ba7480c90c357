"""OpenAI's older completions: how a request is read, and which answer it gets.

Behind a backend that has the same endpoint, request and answer pass as they are. Any other worker is asked by chat: the
prompt is what its one user says.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.core.errors import InvalidRequest
from pipeline.core.ticket import Ticket
from pipeline.edge import decode, head
from pipeline.edge.call import Call
from pipeline.edge.completions_answers import TextAnswering
from pipeline.edge.completions_chunks import TextEncoder
from pipeline.edge.completions_sinks import OnlyNative, WholeText
from pipeline.edge.completions_types import PROMPTS_MAX, CompletionBody
from pipeline.edge.errors import InvalidType
from pipeline.edge.openai import OpenAIRouting
from pipeline.edge.sinks import EventSink, HttpSink
from pipeline.ingress import Prompt
from workers.base import ChatMessage, Parameters

_decoder = msgspec.json.Decoder(CompletionBody)
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_CHOICES_MAX = 1024  # over all prompts
_OWN = ("prompt", "best_of", "echo", "logprobs", "suffix")  # fields that a chat does not have, or means otherwise


class CompletionDialect(OpenAIRouting):
    """`POST /v1/completions`."""

    path = "/v1/completions"

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        headers = call.headers
        session_id, timeout, gap_limit = head.session_id(headers), head.timeout(headers), head.gap_limit(headers)
        fields = decode.decode(_decoder, body)
        prompts = _prompts(fields.prompt)
        text = "\n".join(prompts)
        demanding = only_native(fields, len(prompts))
        message = ChatMessage("user", text)
        prompt = Prompt(
            fields.model,
            (message,),
            text,
            _parameters(fields, len(prompts)),
            bool(fields.stream),
            session_id or fields.prompt_cache_key or None,
            timeout,
            gap_limit,
            _chat(body, text),
            session_in_body=session_id is None and bool(fields.prompt_cache_key),
            native=body,
            native_dialect="completions",
            native_only=demanding,
        )
        return prompt, self._sink(call, ticket, fields, demanding)

    def _sink(self, call: Call, ticket: Ticket, fields: CompletionBody, demanding: str | None) -> HttpSink:
        route = self._routes.get(fields.model)
        rename = route is not None and route.rename_model
        cites = route is not None and route.collection is not None
        answering = TextAnswering(call.request_id, fields.model, rename, cites)
        required = OnlyNative(fields.model, demanding)
        if not fields.stream:
            return WholeText(call, ticket, answering.compose, required)
        options = fields.stream_options
        usage = options is not None and bool(options.include_usage)
        return EventSink(call, TextEncoder(answering, required, usage=usage))


def only_native(fields: CompletionBody, prompts: int) -> str | None:
    """The field for which the request needs a backend with this endpoint; None where any will do."""
    needed = {
        "prompt": prompts > 1,
        "suffix": bool(fields.suffix),
        "echo": bool(fields.echo),
        "logprobs": fields.logprobs is not None,
        "best_of": (fields.best_of or 1) > (fields.n or 1),
        "max_tokens": fields.max_tokens == 0,
    }
    return next((name for name, is_needed in needed.items() if is_needed), None)


def _prompts(given: str | list[Any]) -> Sequence[str]:
    """Raises `InvalidRequest`."""
    if isinstance(given, str):
        return (given,)
    if not given:
        raise InvalidRequest("Invalid value for 'prompt': an empty list.", param="prompt")
    if not all(isinstance(text, str) for text in given):
        raise InvalidType(
            "Invalid value for 'prompt': expected a text or a list of texts. Lists of tokens are not taken: nobody "
            "here can read them.",
            param="prompt",
        )
    if len(given) > PROMPTS_MAX:
        raise InvalidRequest(
            f"Invalid value for 'prompt': expected at most {PROMPTS_MAX} texts, got {len(given)}.", param="prompt"
        )
    return given


def _parameters(fields: CompletionBody, prompts: int) -> Parameters:
    """`n` counts the choices of all prompts together."""
    choices = (fields.n or 1) * prompts
    if choices > _CHOICES_MAX:
        raise InvalidRequest(
            f"Invalid value for 'n': expected at most {_CHOICES_MAX} choices over all prompts, got {choices}.",
            param="n",
        )
    return decode.parameters(
        max_tokens=1 if fields.max_tokens == 0 else fields.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        stop=fields.stop,
        n=choices,
        seed=fields.seed,
    )


def _chat(body: bytes, text: str) -> bytes:
    """The request as a chat completion's. What else the client said has the same names there."""
    fields: dict[str, Any] = dict(_decode_fields(body))
    for name in _OWN:
        fields.pop(name, None)
    fields["messages"] = [{"role": "user", "content": text}]
    return msgspec.json.encode(fields)
