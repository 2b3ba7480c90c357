"""Cohere's chat, version 2, as bytes: requests from ours, and what all its answers have in common. No I/O.

Source: Cohere API reference, "Chat" (v2), "Errors". Answers are read in `workers.cohere_answers`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from workers.asked import Asked, Call, Image, Tool, Turn, asked, bad
from workers.base import GenerationRequest, Usage
from workers.errors import WorkerError, WorkerErrorKind
from workers.refusals import message_in, status_error

_SAME_NAME = ("frequency_penalty", "presence_penalty", "documents", "citation_options", "safety_mode", "strict_tools")
_CHOICES = {"none": "NONE", "required": "REQUIRED"}
_LEAST_P, _MOST_P = 0.01, 0.99
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')  # Cohere wants a schema
_CANCELLED, _INVALID_TOKEN = 499, 498
_BLOCKED = ("blocked input", "blocked output")
_ANSWER_TOO_LONG = "max tokens must be less"  # of what may be asked for, not of the window


def encode_request(request: GenerationRequest, *, model: str | None) -> bytes:
    """The body of a call to chat. Raises `WorkerError` for what Cohere has no words for."""
    wish = asked(request)
    fields: dict[str, Any] = {
        "model": model or request.model,
        "messages": [_message(turn, f"messages[{at}]") for at, turn in enumerate(wish.turns)],
        "stream": request.stream,
        **wish.given(_SAME_NAME),
        **_sampling(wish),
        **_tools(wish),
        **_thinking(wish),
    }
    if wish.answer == "json":
        form = {"type": "json_object"}
        fields["response_format"] = form if wish.schema is None else {**form, "json_schema": wish.schema}
    return msgspec.json.encode(fields)


def refused(status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Sequence[str]) -> WorkerError:
    """The error for an answer whose status is not 2xx; `body` may be cut."""
    kind = error_kind(message_in(body))
    if kind is None and status == _INVALID_TOKEN:
        kind = WorkerErrorKind.AUTH
    if status == _CANCELLED:  # the reference says to try again
        kind = WorkerErrorKind.UNAVAILABLE
    return status_error(status, headers, body, now=now, secrets=secrets, kind=kind)


def error_kind(words: str) -> WorkerErrorKind | None:
    """What Cohere's own words for an error say, where its status does not."""
    words = words.lower()
    if any(blocked in words for blocked in _BLOCKED):
        return WorkerErrorKind.CONTENT_FILTERED
    return WorkerErrorKind.BAD_REQUEST if _ANSWER_TOO_LONG in words else None


def usage_of(usage: Any) -> Usage | None:
    """What the model read and wrote; where Cohere does not tell, what it bills."""
    if not isinstance(usage, Mapping):
        return None
    for name in ("tokens", "billed_units"):
        counts = usage.get(name)
        if isinstance(counts, Mapping):
            prompt, completion = _count(counts.get("input_tokens")), _count(counts.get("output_tokens"))
            return Usage(prompt, completion, cached_tokens=min(_count(usage.get("cached_tokens")), prompt))
    return None


def _count(value: Any) -> int:
    """Cohere's counts are numbers with a point."""
    return int(value) if isinstance(value, int | float) and value > 0 and math.isfinite(value) else 0


def _message(turn: Turn, where: str) -> dict[str, Any]:
    match turn.role:
        case "user" if turn.images:
            return {"role": "user", "content": [_part(part) for part in turn.parts]}
        case _ if turn.images:
            raise bad(f"{where}: Cohere takes images in messages of the user only")
        case "tool":
            return {"role": "tool", "tool_call_id": turn.call_id, "content": turn.text}
        case "assistant":
            return _assistant(turn)
        case _:
            return {"role": turn.role, "content": turn.text}


def _part(part: str | Image) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    image = {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}
    return {"type": "image_url", "image_url": image}


def _assistant(turn: Turn) -> dict[str, Any]:
    """The model's reasoning is the plan of its calls where there are some, else a part of what it said."""
    if turn.calls:
        message: dict[str, Any] = {"role": "assistant", "tool_calls": [_call(call) for call in turn.calls]}
        if turn.reasoning:
            message["tool_plan"] = turn.reasoning
        if turn.text:
            message["content"] = turn.text
        return message
    if not turn.reasoning:
        return {"role": "assistant", "content": turn.text}
    thinking = {"type": "thinking", "thinking": turn.reasoning}
    return {"role": "assistant", "content": [thinking, {"type": "text", "text": turn.text}]}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _sampling(wish: Asked) -> dict[str, Any]:
    given = wish.parameters
    found = {
        "max_tokens": given.max_tokens,
        "temperature": given.temperature,
        "p": None if given.top_p is None else min(max(given.top_p, _LEAST_P), _MOST_P),  # 1, OpenAI's usual, is refused
        "k": wish.given(("top_k",)).get("top_k"),
        "stop_sequences": given.stop or None,
        "seed": given.seed,
    }
    return {name: value for name, value in found.items() if value is not None}


def _tools(wish: Asked) -> dict[str, Any]:
    if not wish.tools:
        return {}
    found: dict[str, Any] = {"tools": [told_tool(tool) for tool in wish.tools]}
    if any(tool.function.strict for tool in wish.tools) and "strict_tools" not in wish.fields:
        found["strict_tools"] = True
    if wish.choice in _CHOICES:
        found["tool_choice"] = _CHOICES[wish.choice]
    return found


def told_tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    parameters = _NO_PARAMETERS if function.parameters is UNSET else function.parameters
    found: dict[str, Any] = {"name": function.name, "parameters": parameters}
    if function.description is not None:
        found["description"] = function.description
    return {"type": "function", "function": found}


def _thinking(wish: Asked) -> dict[str, Any]:
    """Cohere's own word for it where the client uses that; else it knows only whether, not how much."""
    given = wish.given(("thinking",))
    if given or wish.effort is None:
        return {**given}
    return {"thinking": {"type": "disabled" if wish.effort == "none" else "enabled"}}
