"""What the kinds have in common whose peers are written for us: requests and answers in the canonical form itself."""

import base64
import json
from typing import Any

from tests.conformance.backends.speaker import (
    Heard,
    HeardMessage,
    Reasoning,
    Rejected,
    Script,
    Text,
    ToolCall,
    encoded,
    pieces,
)
from workers.base import Delta, DeltaBatch, GenerationRequest

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def heard_of(request: GenerationRequest) -> Heard:
    """Raises `Rejected`."""
    try:
        body = json.loads(request.body) if request.body else {}
        parameters = request.parameters
        return Heard(
            model=request.model,
            messages=tuple(
                [
                    _message(json.loads(one.raw) if one.raw else {"role": one.role, "content": one.text})
                    for one in request.messages
                ]
            ),
            stream=request.stream,
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            stop=parameters.stop,
            seed=parameters.seed,
            n=parameters.n,
            tools={tool["function"]["name"]: tool["function"]["parameters"] for tool in body.get("tools") or ()},
            tool_choice=_choice(body.get("tool_choice")),
            schema=_schema(body.get("response_format")),
            reasoning_effort=body.get("reasoning_effort"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as why:
        raise Rejected(f"{type(why).__name__}: {why}") from why


def _message(message: Any) -> HeardMessage:
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return HeardMessage(
        _ROLES[message["role"]],  # type: ignore[arg-type]
        "\n".join([part["text"] for part in parts if part["type"] == "text"]),
        tuple([_image(part["image_url"]["url"]) for part in parts if part["type"] != "text"]),
        tuple([_call(call) for call in message.get("tool_calls") or ()]),
        message.get("tool_call_id", ""),
    )


def _image(address: str) -> bytes | str:
    if not address.startswith("data:"):
        return address
    return base64.b64decode(address.partition(",")[2], validate=True)


def _call(call: Any) -> ToolCall:
    return ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])


def _choice(choice: Any) -> str | None:
    return choice if choice is None or isinstance(choice, str) else choice["function"]["name"]


def _schema(wanted: Any) -> Any:
    return None if wanted is None else wanted["json_schema"]["schema"]


def batches_of(script: Script) -> list[DeltaBatch]:
    """A streamed answer; the last two batches are the finish reasons and the usage."""
    batches = [DeltaBatch((delta,)) for choice in range(script.n) for delta in _deltas(script, choice)]
    reason = script.finish if script.wire_finish is None else script.wire_finish
    batches.append(DeltaBatch(tuple([Delta(index=choice, finish_reason=reason) for choice in range(script.n)])))
    return [*batches, DeltaBatch((), script.usage)] if script.usage is not None else batches


def _deltas(script: Script, choice: int) -> list[Delta]:
    deltas: list[Delta] = []
    calls = 0
    for part in script.parts:
        match part:
            case Text(text) if not script.unknown:
                deltas.append(Delta(text, choice))
            case Text(text):
                deltas.append(_chunk(choice, content=text, x_unknown={"deep": [1, None, "ü"]}))
            case Reasoning(text):
                deltas.append(_chunk(choice, reasoning_content=text))
            case ToolCall(call_id, name, arguments):
                first, *rest = pieces(arguments)
                named = {"name": name, "arguments": first}
                deltas.append(
                    _chunk(choice, tool_calls=[{"index": calls, "id": call_id, "type": "function", "function": named}])
                )
                deltas += [
                    _chunk(choice, tool_calls=[{"index": calls, "function": {"arguments": piece}}]) for piece in rest
                ]
                calls += 1
    return deltas


def _chunk(choice: int, **fields: Any) -> Delta:
    """Only `raw` is set, as the reference says that the rest then follows from it."""
    chunk = {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": choice, "delta": fields, "finish_reason": None}],
    }
    return Delta(raw=encoded(chunk), index=choice)
