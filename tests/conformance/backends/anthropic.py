"""Anthropic's Messages.

Source: Anthropic API reference, "Create a Message", "Streaming Messages", "Errors"; the types of Anthropic's own client
(`tests/workers/test_anthropic_client.py` holds what is said here against them).
"""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from config.schema import AnyWorker
from tests.conformance.backends.speaker import (
    SECRET,
    Feature,
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
from workers.base import Usage
from workers.errors import WorkerErrorKind as Kind

_FIELDS = set(
    """model messages max_tokens system stream temperature top_p top_k stop_sequences tools tool_choice thinking
    output_config metadata service_tier""".split()
)
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_NOTHING_KNOWN = {"x_unknown": {"deep": [1, None, "ü"]}}
_SIGNATURE = "c2lnbmVk"
_ERRORS = {
    Kind.BAD_REQUEST: "invalid_request_error",
    Kind.CONTEXT_TOO_LONG: "invalid_request_error",
    Kind.AUTH: "authentication_error",
    Kind.RATE_LIMITED: "rate_limit_error",
    Kind.OVERLOADED: "overloaded_error",
    Kind.UNAVAILABLE: "api_error",
    Kind.TIMEOUT: "timeout_error",
}
_TOO_LONG = "prompt is too long: 210000 tokens > 200000 maximum"

_is_id = re.compile(r"[a-zA-Z0-9_-]+").fullmatch


class AnthropicSpeaker(HttpSpeaker):
    kind = "anthropic"
    refuses: ClassVar[frozenset[Feature]] = frozenset({"n"})
    ignores: ClassVar[frozenset[Feature]] = frozenset({"seed"})
    lacks: ClassVar[frozenset[Feature]] = frozenset({"no_usage"})  # every message has it
    never: ClassVar[frozenset[Kind]] = frozenset({Kind.CONTENT_FILTERED})  # that is a stop_reason, `refusal`
    reasons: ClassVar[Mapping[str, Finish]] = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("anthropic", base_url=f"{scheme}://{address}", **fields)

    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        if path != "/v1/messages":
            raise Rejected(path)
        if headers.get("x-api-key") != SECRET or "authorization" in headers:
            raise Rejected("credentials")
        if (headers.get("anthropic-version"), headers.get("content-type")) != ("2023-06-01", "application/json"):
            raise Rejected("version or content-type")
        if unknown := set(body) - _FIELDS:
            raise Rejected(f"fields {unknown}")
        if body["max_tokens"] < 1 or not 0 <= body.get("temperature", 0) <= 1:
            raise Rejected("max_tokens or temperature")
        output = body.get("output_config", {})
        return Heard(
            model=body["model"],
            messages=(*_system(body.get("system")), *_heard(body["messages"])),
            stream=body.get("stream", False),
            max_tokens=body["max_tokens"],
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
            stop=tuple(body.get("stop_sequences", ())),
            tools={tool["name"]: tool["input_schema"] for tool in body.get("tools", ())},
            tool_choice=_choice(body.get("tool_choice")),
            schema=_schema(output.get("format")),
            reasoning_effort=_effort(output.get("effort")),
        )

    def stream(self, script: Script) -> list[bytes]:
        usage = _usage(script)
        start = {**_message(script), "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, (block, deltas) in enumerate(_blocks(script)):
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        stopped = {"stop_reason": _reason(script), "stop_sequence": None}
        events.append({"type": "message_delta", "delta": stopped, "usage": usage})
        events.append({"type": "message_stop"})
        if script.unknown:
            events = [{**event, **_NOTHING_KNOWN} for event in events]
            events.insert(2, {"type": "content_moved", "index": "five", "delta": 7})
        return [_event(event) for event in events]

    def whole(self, script: Script) -> bytes:
        content = []
        for block, deltas in _blocks(script):
            whole = dict(block)
            for delta in deltas:
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        whole[name] += delta[name]
            content.append(whole)
        calls = iter(script.calls)
        for block in content:
            if block["type"] == "tool_use":
                block["input"] = json.loads(next(calls).arguments)
        return encoded({**_message(script), "content": content, "stop_reason": _reason(script)})

    def refusals(self, words: str) -> list[Refusal]:
        def error(kind: Kind, status: int, type_: str, message: str = words) -> Refusal:
            told = {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_011"}
            return Refusal(kind, status, encoded(told), {"request-id": "req_011"})

        return [
            error(Kind.BAD_REQUEST, 400, "invalid_request_error"),
            error(Kind.CONTEXT_TOO_LONG, 400, "invalid_request_error", f"{_TOO_LONG} ({words})"),
            error(Kind.AUTH, 401, "authentication_error"),
            error(Kind.AUTH, 403, "permission_error"),
            error(Kind.BAD_REQUEST, 404, "not_found_error"),
            error(Kind.BAD_REQUEST, 413, "request_too_large"),
            error(Kind.RATE_LIMITED, 429, "rate_limit_error"),
            error(Kind.UNAVAILABLE, 500, "api_error"),
            error(Kind.TIMEOUT, 504, "timeout_error"),
            error(Kind.OVERLOADED, 529, "overloaded_error"),
        ]

    def in_band(self, kind: Kind, words: str) -> bytes | None:
        if kind not in _ERRORS:
            return None
        message = f"{_TOO_LONG} ({words})" if kind is Kind.CONTEXT_TOO_LONG else words
        return _event({"type": "error", "error": {"type": _ERRORS[kind], "message": message}})

    def get(self, path: str) -> bytes | None:
        return b'{"data": [], "has_more": false}' if path == "/v1/models" else None


SPEAKER = AnthropicSpeaker()


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), encoded(event))


def _system(system: Any) -> tuple[HeardMessage, ...]:
    if system is None:
        return ()
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    if not blocks or any(block["type"] != "text" or not block["text"] for block in blocks):
        raise Rejected("system")
    return (HeardMessage("system", "\n".join([block["text"] for block in blocks])),)


def _heard(messages: Any) -> list[HeardMessage]:
    """Each message's tool results, then what else it says. The results of all calls of a turn come in the next message,
    in front of anything else."""
    heard: list[HeardMessage] = []
    if not messages:
        raise Rejected("no messages")
    due: set[str] = set()
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ("user", "assistant") or not content:
            raise Rejected(f"role {role} or no content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        results = [block for block in blocks if block["type"] == "tool_result"]
        if {block["tool_use_id"] for block in results} != due or results != blocks[: len(results)]:
            raise Rejected("results of tools that were not asked for, or not all of those, or not first")
        heard += [_result(block) for block in results]
        rest = blocks[len(results) :]
        if rest:
            heard.append(_said(role, rest))
        due = {call.call_id for call in heard[-1].calls} if role == "assistant" else set()
    return heard


def _said(role: Any, blocks: list[dict[str, Any]]) -> HeardMessage:
    allowed = ("text", "image", "document") if role == "user" else ("text", "tool_use", "thinking", "redacted_thinking")
    for block in blocks:
        if block["type"] not in allowed or (block["type"] == "text" and not block["text"]):
            raise Rejected(f"block {block['type']}")
    return HeardMessage(
        role,
        "\n".join([block["text"] for block in blocks if block["type"] == "text"]),
        tuple([_picture(block["source"]) for block in blocks if block["type"] == "image"]),
        tuple([_heard_call(block) for block in blocks if block["type"] == "tool_use"]),
    )


def _result(block: dict[str, Any]) -> HeardMessage:
    content = block.get("content", "")
    text = content if isinstance(content, str) else "\n".join([part["text"] for part in content])
    return HeardMessage("tool", text, call_id=block["tool_use_id"])


def _picture(source: dict[str, Any]) -> bytes | str:
    if source["type"] == "url":
        return str(source["url"])
    if source["type"] != "base64" or source["media_type"] not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        raise Rejected("source")
    return base64.b64decode(source["data"], validate=True)


def _heard_call(block: dict[str, Any]) -> ToolCall:
    if not _is_id(block["id"]) or not isinstance(block["input"], dict):
        raise Rejected("tool_use")
    return ToolCall(block["id"], block["name"], encoded(block["input"]).decode())


def _choice(choice: Any) -> str | None:
    if choice is None:
        return None
    return str(choice["name"]) if choice["type"] == "tool" else _CHOICES[choice["type"]]


def _schema(form: Any) -> Any:
    if form is not None and form["type"] != "json_schema":
        raise Rejected("output_config.format")
    return None if form is None else form["schema"]


def _effort(effort: Any) -> str | None:
    if effort not in (None, "low", "medium", "high", "xhigh", "max"):
        raise Rejected("effort")
    return effort  # type: ignore[no-any-return] # checked above


def _reason(script: Script) -> str:
    return _REASONS[script.finish] if script.wire_finish is None else script.wire_finish


def _message(script: Script) -> dict[str, Any]:
    more = _NOTHING_KNOWN if script.unknown else {}
    return {
        "id": "msg_013",
        "type": "message",
        "role": "assistant",
        "model": "claude-m",
        "stop_sequence": None,
        "usage": _usage(script),
        **more,
    }


def _usage(script: Script) -> dict[str, Any]:
    counted = script.usage or Usage(0, 0)
    usage: dict[str, Any] = {
        "input_tokens": counted.prompt_tokens - counted.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.completion_tokens,
    }
    if counted.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": counted.reasoning_tokens}
    return {**usage, **(_NOTHING_KNOWN if script.unknown else {})}


def _blocks(script: Script) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block as it begins, and its deltas; texts that follow each other are one block, and so are thoughts."""
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for part in script.parts:
        newest = blocks[-1][0]["type"] if blocks else ""
        match part:
            case Text(text):
                if newest != "text":
                    blocks.append(({"type": "text", "text": ""}, []))
                blocks[-1][1].append({"type": "text_delta", "text": text})
            case Reasoning(text):
                if newest != "thinking":
                    blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, []))
                blocks[-1][1].append({"type": "thinking_delta", "thinking": text})
            case ToolCall(call_id, name, arguments):
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(arguments)]]
                blocks.append(({"type": "tool_use", "id": call_id, "name": name, "input": {}}, deltas))
    for block, deltas in blocks:
        if block["type"] == "thinking":
            deltas.append({"type": "signature_delta", "signature": _SIGNATURE})
    return blocks
