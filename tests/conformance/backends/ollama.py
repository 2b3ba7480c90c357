"""Ollama's own chat.

Source: Ollama API reference, "Generate a chat message", "Streaming", "Thinking", "Tool calling", "Errors".
`tests/workers/test_ollama_client.py` holds what is said here against the models of Ollama's own client.
"""

import base64
import json
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
)
from workers.errors import WorkerErrorKind as Kind

_FIELDS = set("model messages tools format options stream keep_alive think truncate shift logprobs".split())
_OPTIONS = set(
    """num_ctx num_predict temperature top_p top_k min_p stop seed frequency_penalty presence_penalty repeat_penalty
    """.split()
)
_REASONS = {"stop": "stop", "length": "length", "tool_calls": "stop", "content_filter": "stop"}
_NOTHING_KNOWN = {"x_unknown": {"deep": [1, None, "ü"]}}


class OllamaSpeaker(HttpSpeaker):
    kind = "ollama"
    content_type = "application/x-ndjson"
    refuses: ClassVar[frozenset[Feature]] = frozenset({"n", "image_urls", "tool_choice"})
    lacks: ClassVar[frozenset[Feature]] = frozenset({"usage_details"})  # two counts are all there are
    never: ClassVar[frozenset[Kind]] = frozenset({Kind.TIMEOUT, Kind.CONTENT_FILTERED})  # it waits, and answers all
    reasons: ClassVar[Mapping[str, Finish]] = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("ollama", base_url=f"{scheme}://{address}", **fields)

    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        if path != "/api/chat":
            raise Rejected(path)
        if headers.get("authorization") != f"Bearer {SECRET}":  # of a proxy before it, or of its cloud
            raise Rejected("credentials")
        if unknown := (set(body) - _FIELDS) | (set(body["options"]) - _OPTIONS):
            raise Rejected(f"fields {unknown}")
        if body["truncate"] is not False:
            raise Rejected("it would cut the prompt")
        options = body["options"]
        if not isinstance(options["num_ctx"], int):
            raise Rejected("num_ctx")
        return Heard(
            model=body["model"],
            messages=tuple(map(_heard, body["messages"])),
            stream=body["stream"],
            max_tokens=options.get("num_predict"),
            temperature=options.get("temperature"),
            top_p=options.get("top_p"),
            stop=tuple(options.get("stop", ())),
            seed=options.get("seed"),
            tools=dict(map(_tool, body.get("tools", ()))),
            schema=_schema(body.get("format")),
            reasoning_effort=_effort(body.get("think")),
        )

    def stream(self, script: Script) -> list[bytes]:
        frames = [_frame(script, _message(part)) for part in script.parts]
        if script.unknown:
            frames.insert(0, _frame(script, {"role": "assistant", "content": ""}))
        return [encoded(frame) + b"\n" for frame in [*frames, _last(script, {"role": "assistant", "content": ""})]]

    def whole(self, script: Script) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": script.text}
        if script.reasoning:
            message["thinking"] = script.reasoning
        if script.calls:
            message["tool_calls"] = [_call(call) for call in script.calls]
        return encoded(_last(script, message))

    def refusals(self, words: str) -> list[Refusal]:
        def error(kind: Kind, status: int, message: str, *, lasting: bool = False) -> Refusal:
            return Refusal(kind, status, encoded({"error": message}), lasting=lasting)

        inner = {"code": 400, "message": f"request (8889 tokens) exceeds the available context size. {words}"}
        return [
            error(Kind.RATE_LIMITED, 429, f"you have reached your hourly usage limit. {words}"),
            error(Kind.RATE_LIMITED, 402, f"payment required: {words}", lasting=True),
            error(Kind.OVERLOADED, 503, f"server busy, please try again.  maximum pending requests exceeded. {words}"),
            error(Kind.CONTEXT_TOO_LONG, 400, f"the input length exceeds the context length. {words}"),
            error(Kind.CONTEXT_TOO_LONG, 413, f"the input length exceeds the context length. {words}"),
            error(Kind.CONTEXT_TOO_LONG, 400, f"the prompt is longer than the context length currently … {words}"),
            error(Kind.CONTEXT_TOO_LONG, 400, json.dumps({"error": inner})),
            error(Kind.BAD_REQUEST, 400, f"registry.ollama.ai/library/m:latest does not support tools. {words}"),
            error(Kind.BAD_REQUEST, 404, f'model "asked-for" not found, try pulling it first. {words}'),
            error(Kind.AUTH, 401, f"unauthorized {words}"),
            error(Kind.UNAVAILABLE, 500, f"model requires more system memory (9.9 GiB) than is available. {words}"),
            error(Kind.UNAVAILABLE, 502, f"upstream: {words}"),
            error(Kind.UNAVAILABLE, 499, f"request canceled: {words}"),
        ]

    def in_band(self, kind: Kind, words: str) -> bytes | None:
        told = {
            Kind.UNAVAILABLE: f"an error was encountered while running the model: {words}",
            Kind.CONTEXT_TOO_LONG: f"the input length exceeds the context length: {words}",
            Kind.OVERLOADED: f"server busy, please try again.  maximum pending requests exceeded: {words}",
            Kind.RATE_LIMITED: f"too many requests: {words}",
            Kind.AUTH: f"unauthorized: {words}",
        }.get(kind)
        return None if told is None else encoded({"error": told}) + b"\n"

    def get(self, path: str) -> bytes | None:
        return b'{"version": "0.12.10"}' if path == "/api/version" else None


SPEAKER = OllamaSpeaker()


def _heard(message: Any) -> HeardMessage:
    role = message["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise Rejected(f"role {role}")
    if set(message) - {"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"}:
        raise Rejected("fields of a message")
    if not isinstance(message["content"], str):
        raise Rejected("content")
    if role == "tool" and not isinstance(message["tool_name"], str):
        raise Rejected("tool_name")
    return HeardMessage(
        role,
        message["content"],
        tuple([base64.b64decode(image, validate=True) for image in message.get("images", ())]),
        tuple(map(_heard_call, message.get("tool_calls", ()))),
        message.get("tool_call_id", ""),
    )


def _heard_call(call: Any) -> ToolCall:
    function = call["function"]
    if not isinstance(function["arguments"], dict):
        raise Rejected("arguments that are no object")
    return ToolCall(call["id"], function["name"], json.dumps(function["arguments"]))


def _tool(tool: Any) -> tuple[str, Any]:
    function = tool["function"]
    if tool["type"] != "function" or not isinstance(function.get("parameters", {}), dict):
        raise Rejected("a tool")
    return function["name"], function.get("parameters")


def _schema(form: Any) -> Any:
    if form not in (None, "json") and not isinstance(form, dict):
        raise Rejected("format")
    return None if form == "json" else form


def _effort(think: Any) -> str | None:
    if think is False:
        return "none"
    if think not in (None, "low", "medium", "high"):
        raise Rejected("think")
    return think  # type: ignore[no-any-return] # checked above


def _message(part: Text | Reasoning | ToolCall) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"role": "assistant", "content": text}
        case Reasoning(text):
            return {"role": "assistant", "content": "", "thinking": text}
        case ToolCall():
            return {"role": "assistant", "content": "", "tool_calls": [_call(part)]}


def _call(call: ToolCall) -> dict[str, Any]:
    """Arguments come whole, as an object."""
    return {"id": call.call_id, "function": {"index": 0, "name": call.name, "arguments": json.loads(call.arguments)}}


def _frame(script: Script, message: dict[str, Any]) -> dict[str, Any]:
    unknown = _NOTHING_KNOWN if script.unknown else {}
    return {
        "model": "asked-for",
        "created_at": "2025-11-21T18:15:24.097767Z",
        "message": {**message, **unknown},
        "done": False,
        **unknown,
    }


def _last(script: Script, message: dict[str, Any]) -> dict[str, Any]:
    reason = _REASONS[script.finish] if script.wire_finish is None else script.wire_finish
    frame = {**_frame(script, message), "done": True, "done_reason": reason, "total_duration": 4883583458}
    usage = script.usage
    if usage is None:
        return frame
    counts = {"prompt_eval_count": usage.prompt_tokens, "eval_count": usage.completion_tokens}
    return {**frame, "load_duration": 1334875, **counts, "eval_duration": 4535599000}
