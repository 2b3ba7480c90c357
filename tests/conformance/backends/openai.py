"""OpenAI's chat completions, as vLLM, DeepSeek and llama.cpp's server extend them by `reasoning_content`.

Source: OpenAI API reference, "Chat Completions" (create, the chat completion object, the chat completion chunk object)
and "Error codes".
"""

import base64
from collections.abc import Mapping
from typing import Any, ClassVar

from config.schema import AnyWorker
from tests.conformance.backends.speaker import (
    SECRET,
    Finish,
    Heard,
    HeardMessage,
    HttpSpeaker,
    Reasoning,
    Refusal,
    Rejected,
    Script,
    Text,
    ToolCall,
    encoded,
    given,
    pieces,
)
from workers.errors import WorkerErrorKind as Kind

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_NOTHING_KNOWN = {"x_unknown": {"deep": [1, None, "ü"]}}


class OpenAISpeaker(HttpSpeaker):
    kind = "openai"
    reasons: ClassVar[Mapping[str, Finish]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
    }

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("openai", base_url=f"{scheme}://{address}/v1", **fields)

    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        if path != "/v1/chat/completions":
            raise Rejected(path)
        if headers.get("authorization") != f"Bearer {SECRET}":
            raise Rejected("credentials")
        if headers.get("content-type") != "application/json":
            raise Rejected("content-type")
        messages = tuple(map(_heard, body["messages"]))
        _check_order(messages)
        stop = body.get("stop")
        output = body.get("response_format")
        return Heard(
            model=body["model"],
            messages=messages,
            stream=body.get("stream", False),
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            seed=body.get("seed"),
            n=body.get("n", 1),
            tools={tool["function"]["name"]: tool["function"]["parameters"] for tool in body.get("tools", ())},
            tool_choice=_choice(body.get("tool_choice")),
            schema=output["json_schema"]["schema"] if output else None,
            reasoning_effort=_effort(body.get("reasoning_effort")),
        )

    def stream(self, script: Script) -> list[bytes]:
        payloads = []
        for index in range(script.n):
            payloads += [_chunk(script, index, {"role": "assistant", "content": ""})]
            payloads += [_chunk(script, index, delta) for delta in _deltas(script)]
            payloads += [_chunk(script, index, {}, finish=_reason(script))]
        if script.usage is not None:
            payloads.append({**_chunk(script, 0, {}), "choices": [], "usage": _usage(script)})
        return [b"data: %s\n\n" % text for text in [*map(encoded, payloads), b"[DONE]"]]

    def whole(self, script: Script) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": script.text or None, "refusal": None}
        if script.reasoning:
            message["reasoning_content"] = script.reasoning
        if script.calls:
            message["tool_calls"] = [_call(call) for call in script.calls]
        choices = [
            {"index": at, "message": message, "logprobs": None, "finish_reason": _reason(script)}
            for at in range(script.n)
        ]
        body = {**_chunk(script, 0, {}), "object": "chat.completion", "choices": choices}
        return encoded(body if script.usage is None else {**body, "usage": _usage(script)})

    def refusals(self, words: str) -> list[Refusal]:
        def error(kind: Kind, status: int, type_: str, code: str | None) -> Refusal:
            told = {"message": words, "type": type_, "param": None, "code": code}
            return Refusal(kind, status, encoded({"error": told}), lasting=code == "insufficient_quota")

        return [
            error(Kind.RATE_LIMITED, 429, "requests", "rate_limit_exceeded"),
            error(Kind.RATE_LIMITED, 429, "insufficient_quota", "insufficient_quota"),
            error(Kind.OVERLOADED, 503, "server_error", None),
            error(Kind.CONTEXT_TOO_LONG, 400, "invalid_request_error", "context_length_exceeded"),
            error(Kind.BAD_REQUEST, 400, "invalid_request_error", None),
            error(Kind.BAD_REQUEST, 404, "invalid_request_error", "model_not_found"),
            error(Kind.AUTH, 401, "invalid_request_error", "invalid_api_key"),
            error(Kind.AUTH, 403, "invalid_request_error", "unsupported_country_region_territory"),
            error(Kind.UNAVAILABLE, 500, "server_error", None),
            error(Kind.TIMEOUT, 504, "server_error", None),
            error(Kind.CONTENT_FILTERED, 400, "invalid_request_error", "content_filter"),
            error(Kind.CONTENT_FILTERED, 400, "invalid_request_error", "content_policy_violation"),
        ]

    def in_band(self, kind: Kind, words: str) -> bytes | None:
        told = {
            Kind.RATE_LIMITED: {"type": "requests", "code": "rate_limit_exceeded"},
            Kind.OVERLOADED: {"type": "server_error", "code": 503},
            Kind.CONTEXT_TOO_LONG: {"type": "invalid_request_error", "code": "context_length_exceeded"},
            Kind.BAD_REQUEST: {"type": "invalid_request_error", "code": None},
            Kind.AUTH: {"type": "invalid_request_error", "code": "invalid_api_key"},
            Kind.UNAVAILABLE: {"type": "server_error", "code": None},
            Kind.CONTENT_FILTERED: {"type": "invalid_request_error", "code": "content_filter"},
        }.get(kind)
        if told is None:
            return None
        return b"data: %s\n\n" % encoded({"error": {"message": words, "param": None, **told}})

    def get(self, path: str) -> bytes | None:
        return b'{"object": "list", "data": []}' if path == "/v1/models" else None


SPEAKER = OpenAISpeaker()


def _heard(message: Any) -> HeardMessage:
    role, content = _ROLES.get(message["role"]), message.get("content")
    if role is None:
        raise Rejected(f"role {message['role']}")
    if role == "tool" and not message["tool_call_id"]:
        raise Rejected("tool_call_id")
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise Rejected("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return HeardMessage(
        role,  # type: ignore[arg-type] # of the table above
        "\n".join([part["text"] for part in parts if part["type"] == "text"]),
        tuple([_picture(part) for part in parts if part["type"] != "text"]),
        tuple([_heard_call(call) for call in message.get("tool_calls") or ()]),
        message.get("tool_call_id", ""),
    )


def _heard_call(call: Any) -> ToolCall:
    if call["type"] != "function":
        raise Rejected(f"a tool call of type {call['type']}")
    function = call["function"]
    return ToolCall(call["id"], function["name"], function["arguments"])


def _picture(part: Any) -> bytes | str:
    if part["type"] != "image_url":
        raise Rejected(f"a part of type {part['type']}")
    address = part["image_url"]["url"]
    if address.startswith("data:"):
        return base64.b64decode(address.partition(";base64,")[2], validate=True)
    if not address.startswith("https://"):
        raise Rejected("an image's address")
    return str(address)


def _check_order(messages: tuple[HeardMessage, ...]) -> None:
    """Results of tools follow the call that they are for."""
    called: set[str] = set()
    for message in messages:
        called |= {call.call_id for call in message.calls}
        if message.role == "tool" and message.call_id not in called:
            raise Rejected("a tool's result without its call")


def _choice(choice: Any) -> str | None:
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    if choice not in (None, "auto", "none", "required"):
        raise Rejected("tool_choice")
    return choice  # type: ignore[no-any-return] # checked above


def _effort(effort: Any) -> str | None:
    if effort not in (None, "none", "minimal", "low", "medium", "high"):
        raise Rejected("reasoning_effort")
    return effort  # type: ignore[no-any-return] # checked above


def _reason(script: Script) -> str:
    return script.finish if script.wire_finish is None else script.wire_finish


def _chunk(script: Script, index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    unknown = _NOTHING_KNOWN if script.unknown else {}
    return {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "service_tier": "default",
        "choices": [
            {"index": index, "delta": {**delta, **unknown}, "logprobs": None, "finish_reason": finish, **unknown}
        ],
        **unknown,
    }


def _deltas(script: Script) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    calls = 0
    for part in script.parts:
        match part:
            case Text(text):
                found.append({"content": text})
            case Reasoning(text):
                found.append({"reasoning_content": text})
            case ToolCall():
                first = {**_call(part), "index": calls}
                found.append({"tool_calls": [{**first, "function": {"name": part.name, "arguments": ""}}]})
                found += [
                    {"tool_calls": [{"index": calls, "function": {"arguments": piece}}]}
                    for piece in pieces(part.arguments)
                ]
                calls += 1
    return found


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _usage(script: Script) -> dict[str, Any]:
    usage = script.usage
    assert usage is not None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }
