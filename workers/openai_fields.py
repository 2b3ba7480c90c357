"""What OpenAI's chat completions and its older completions have in common: fields of requests and of answers."""

from typing import Any

import msgspec

from workers.base import Usage
from workers.canonical import FINISH_REASONS
from workers.errors import WorkerError, WorkerErrorKind

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_LIMITS = ("max_completion_tokens", "max_tokens")  # of an answer: the name that is used now, and the older one
_FINISHED = {  # words for the end of an answer that compatible servers have of their own
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "max_tokens": "length",
    "max_length": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
    "sensitive": "content_filter",
}

decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def shorten(fields: dict[str, Any], limit: int | None) -> None:
    """Lowers the limits of the client's body to `limit`, each under the name that the client gave it; where it set
    none, a name that it mentions is preferred: a backend may know one of the two only."""
    mentioned = [name for name in _LIMITS if name in fields]
    given = [name for name in mentioned if bytes(fields[name]) != b"null"]
    for name in given:
        value = msgspec.json.decode(fields[name])
        if limit is not None and not (isinstance(value, int | float) and value <= limit):
            fields[name] = limit
    if not given and limit is not None:
        fields[mentioned[0] if mentioned else "max_tokens"] = limit


def asking_usage(options: msgspec.Raw | None) -> Any:
    """The client's stream_options with usage asked for; what is no object stays for the backend to refuse."""
    text = b"{}" if options is None else bytes(options)
    if text == b"null":
        text = b"{}"
    if not text.startswith(b"{"):
        return options
    return {**decode_fields(text), "include_usage": True}


def finish_reason_of(reason: str | None) -> str:
    """One of `workers.canonical.FINISH_REASONS`; what nobody knows, and nothing, counts as `stop`."""
    if reason in FINISH_REASONS:
        return reason
    return _FINISHED.get((reason or "").lower(), "stop")


def usage_in(payload: bytes) -> Usage | None:
    """The usage object in a chunk or completion, with its bytes; None where it is missing or not an object. `payload`
    has been decoded before."""
    raw = bytes(decode_fields(payload).get("usage", b"")) if payload else b""
    if not raw.startswith(b"{"):
        return None
    counts = msgspec.json.decode(raw)
    # DeepSeek has a name of its own for what was read from a cache.
    cached = _part(counts, "prompt_tokens_details", "cached_tokens") or _count(counts.get("prompt_cache_hit_tokens"))
    reasoning = _part(counts, "completion_tokens_details", "reasoning_tokens")
    return Usage(_count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")), raw, cached, reasoning)


def malformed(what: str) -> WorkerError:
    return WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is malformed: {what}")


def _part(counts: dict[str, Any], details: str, name: str) -> int:
    found = counts.get(details)
    return _count(found.get(name)) if isinstance(found, dict) else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
