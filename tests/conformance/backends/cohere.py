"""Cohere's chat, version 2.

Source: Cohere API reference, "Chat" and "Chat with Streaming" (v2), "Errors (status codes and description)".
`tests/workers/test_cohere_client.py` holds what is said here against the models of Cohere's own client.
"""

import base64
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
from workers.errors import WorkerErrorKind as Kind

_FIELDS = set(
    """model messages stream tools strict_tools documents citation_options response_format safety_mode max_tokens
    stop_sequences temperature seed frequency_penalty presence_penalty k p logprobs tool_choice thinking
    priority""".split()
)
_REASONS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL", "content_filter": "COMPLETE"}
_NOTHING_KNOWN = {"x_unknown": {"deep": [1, None, "ü"]}}


class CohereSpeaker(HttpSpeaker):
    kind = "cohere"
    refuses: ClassVar[frozenset[Feature]] = frozenset({"n"})
    ignores: ClassVar[frozenset[Feature]] = frozenset({"reasoning_effort"})  # it is told whether to, not how much
    lacks: ClassVar[frozenset[Feature]] = frozenset({"usage_details"})  # it counts what was cached, not reasoning
    reasons: ClassVar[Mapping[str, Finish]] = {
        "COMPLETE": "stop",
        "STOP_SEQUENCE": "stop",
        "MAX_TOKENS": "length",
        "TOOL_CALL": "tool_calls",
    }

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("cohere", base_url=f"{scheme}://{address}", **fields)

    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        if path != "/v2/chat":
            raise Rejected(path)
        if headers.get("authorization") != f"Bearer {SECRET}":
            raise Rejected("credentials")
        if headers.get("content-type") != "application/json":
            raise Rejected("content-type")
        if unknown := set(body) - _FIELDS:
            raise Rejected(f"fields {unknown}")
        messages = tuple(map(_heard, body["messages"]))
        _check_order(messages)
        _check_ranges(body)
        tools = dict(map(_tool, body.get("tools", ())))
        return Heard(
            model=body["model"],
            messages=messages,
            stream=body["stream"],
            max_tokens=body.get("max_tokens"),
            temperature=body.get("temperature"),
            top_p=body.get("p"),
            stop=tuple(body.get("stop_sequences", ())),
            seed=body.get("seed"),
            tools=tools,
            tool_choice=_choice(body.get("tool_choice"), list(tools)),
            schema=_schema(body.get("response_format")),
        )

    def stream(self, script: Script) -> list[bytes]:
        events = [_event("message-start", script, id=_ID, delta={"message": _OPENING}), *_events(script)]
        if script.unknown:
            events.insert(1, _event("future-event", script, delta={"message": {"future": True}}))
        end: dict[str, Any] = {"finish_reason": _reason(script)}
        if script.usage is not None:
            end["usage"] = _usage(script)
        return [*events, _event("message-end", script, delta=end)]

    def whole(self, script: Script) -> bytes:
        content = [{"type": "thinking", "thinking": script.reasoning}] if script.reasoning else []
        content += [{"type": "text", "text": script.text}] if script.text else []
        message: dict[str, Any] = {"role": "assistant"}
        if content:
            message["content"] = content
        if script.calls:
            message["tool_calls"] = [_call(call, call.arguments) for call in script.calls]
        unknown = _NOTHING_KNOWN if script.unknown else {}
        body: dict[str, Any] = {
            "id": _ID,
            "message": {**message, **unknown},
            "finish_reason": _reason(script),
            **unknown,
        }
        return encoded(body if script.usage is None else {**body, "usage": _usage(script)})

    def refusals(self, words: str) -> list[Refusal]:
        def error(kind: Kind, status: int, message: str = words, *, lasting: bool = False) -> Refusal:
            return Refusal(kind, status, encoded({"id": _ID, "message": message}), lasting=lasting)

        return [
            error(Kind.RATE_LIMITED, 429),
            error(Kind.RATE_LIMITED, 402, lasting=True),
            error(Kind.OVERLOADED, 503),
            error(Kind.CONTEXT_TOO_LONG, 400, f"too many tokens: size limit exceeded by 11326 tokens. {words}"),
            error(Kind.BAD_REQUEST, 400, f"invalid request: {words}"),
            error(Kind.BAD_REQUEST, 400, f"too many tokens: max tokens must be less than or equal to 4096. {words}"),
            error(Kind.BAD_REQUEST, 404, f"model 'asked-for' not found. {words}"),
            error(Kind.BAD_REQUEST, 422),
            error(Kind.AUTH, 401, f"invalid api token {words}"),
            error(Kind.AUTH, 403),
            error(Kind.AUTH, 498, f"invalid token {words}"),
            error(Kind.UNAVAILABLE, 499, f"request cancelled: {words}"),
            error(Kind.UNAVAILABLE, 500),
            error(Kind.TIMEOUT, 504),
            error(Kind.CONTENT_FILTERED, 400, f"blocked output: please adjust your prompt. {words}"),
            error(Kind.CONTENT_FILTERED, 498, f"blocked input: please adjust your prompt. {words}"),
        ]

    def in_band(self, kind: Kind, words: str) -> bytes | None:
        told = {
            Kind.UNAVAILABLE: {"finish_reason": "ERROR", "error": words},
            Kind.TIMEOUT: {"finish_reason": "TIMEOUT", "error": words},
            Kind.CONTEXT_TOO_LONG: {"finish_reason": "ERROR", "error": f"too many tokens: {words}"},
        }.get(kind)
        return None if told is None else _event("message-end", Script(), delta=told)

    def get(self, path: str) -> bytes | None:
        return b'{"models": [{"name": "command-a-03-2025"}]}' if path == "/v1/models" else None


SPEAKER = CohereSpeaker()
_ID = "29f14a5a-11de-4cae-9800-25e4747408ea"
_OPENING: dict[str, Any] = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}


def _heard(message: Any) -> HeardMessage:
    role = message["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise Rejected(f"role {role}")
    if role == "tool" and not message["tool_call_id"]:
        raise Rejected("tool_call_id")
    calls = tuple(map(_heard_call, message.get("tool_calls", ())))
    content = message.get("content") if calls else message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    images = tuple([_picture(part) for part in parts if part["type"] == "image_url"])
    if images and role != "user":
        raise Rejected("an image that is not the user's")
    if any(part["type"] not in _PARTS[role] for part in parts):
        raise Rejected(f"parts of the {role}")
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if role == "user" and not (any(texts) or images):
        raise Rejected("message must be at least 1 token long")
    return HeardMessage(role, "\n".join(texts), images, calls, message.get("tool_call_id", ""))


_PARTS = {
    "system": {"text"},
    "user": {"text", "image_url"},
    "assistant": {"text", "thinking"},
    "tool": {"text", "document"},
}


def _heard_call(call: Any) -> ToolCall:
    function = call["function"]
    if call["type"] != "function" or not call["id"] or not isinstance(function["arguments"], str):
        raise Rejected("a tool call")
    return ToolCall(call["id"], function["name"], function["arguments"])


def _picture(part: Any) -> bytes | str:
    address = part["image_url"]["url"]
    if part["image_url"].get("detail", "auto") not in ("auto", "low", "high"):
        raise Rejected("detail")
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


def _check_ranges(body: Any) -> None:
    if not 0.01 <= body.get("p", 0.75) <= 0.99:
        raise Rejected("p")
    if len(body.get("stop_sequences", ())) > 5:
        raise Rejected("stop_sequences")
    if body.get("thinking", {"type": "enabled"})["type"] not in ("enabled", "disabled"):
        raise Rejected("thinking")


def _tool(tool: Any) -> tuple[str, Any]:
    function = tool["function"]
    if tool["type"] != "function" or set(function) - {"name", "description", "parameters"}:
        raise Rejected("a tool")
    return function["name"], function["parameters"]


def _choice(choice: Any, tools: list[str]) -> str | None:
    """One that must be called of one that can be: that one by name."""
    if choice not in (None, "NONE", "REQUIRED") or (choice and not tools):
        raise Rejected("tool_choice")
    if choice == "REQUIRED" and len(tools) == 1:
        return tools[0]
    return choice and str(choice).lower()


def _schema(output: Any) -> Any:
    if output is None:
        return None
    if output["type"] != "json_object" or not isinstance(output.get("json_schema", {}), dict):
        raise Rejected("response_format")
    return output.get("json_schema")


def _reason(script: Script) -> str:
    return _REASONS[script.finish] if script.wire_finish is None else script.wire_finish


def _event(kind: str, script: Script, **fields: Any) -> bytes:
    unknown = _NOTHING_KNOWN if script.unknown else {}
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encoded({"type": kind, **fields, **unknown}))


def _events(script: Script) -> list[bytes]:
    """Texts that follow each other are one content, as is the thinking before them; calls are counted apart."""
    events: list[bytes] = []
    contents = calls = 0
    open_kind = None
    for part in script.parts:
        kind = {Text: "text", Reasoning: "thinking"}.get(type(part))
        if open_kind not in (None, kind):
            events.append(_event("content-end", script, index=contents - 1))
        if isinstance(part, ToolCall):
            events += _call_events(part, calls, script)
            calls += 1
        elif kind is not None:
            if kind != open_kind:
                content = {"type": kind, kind: ""}
                start = {"message": {"content": content}}
                events.append(_event("content-start", script, index=contents, delta=start))
                contents += 1
            delta = {"message": {"content": {kind: part.text}}}
            events.append(_event("content-delta", script, index=contents - 1, delta=delta))
        open_kind = kind
    return [*events, _event("content-end", script, index=contents - 1)] if open_kind else events


def _call_events(call: ToolCall, index: int, script: Script) -> list[bytes]:
    start = {"message": {"tool_calls": _call(call, "")}}
    return [
        _event("tool-call-start", script, index=index, delta=start),
        *[
            _event(
                "tool-call-delta",
                script,
                index=index,
                delta={"message": {"tool_calls": {"function": {"arguments": piece}}}},
            )
            for piece in pieces(call.arguments)
        ],
        _event("tool-call-end", script, index=index),
    ]


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _usage(script: Script) -> dict[str, Any]:
    usage = script.usage
    assert usage is not None
    return {
        "billed_units": {"input_tokens": 3.0, "output_tokens": float(usage.completion_tokens)},
        "tokens": {
            "input_tokens": float(usage.prompt_tokens),
            "output_tokens": float(usage.completion_tokens),
        },
        "cached_tokens": float(usage.cached_tokens),
    }
