"""What a backend says when it does not answer: HTTP statuses and error objects as `WorkerError`.

Sources: OpenAI's error codes; Azure OpenAI's content filtering; the error types of Anthropic, vLLM, llama.cpp's server,
TGI, SGLang and LM Studio. How long to wait is read in `workers.waits`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers.errors import WorkerError, WorkerErrorKind
from workers.waits import asked_wait, retry_after, told_wait

_UNPAID = 402
_BY_STATUS = {
    **dict.fromkeys((400, 404, 409, 413, 422, 501), WorkerErrorKind.BAD_REQUEST),
    **dict.fromkeys((401, 403), WorkerErrorKind.AUTH),
    **dict.fromkeys((_UNPAID, 429), WorkerErrorKind.RATE_LIMITED),
    **dict.fromkeys((503, 529), WorkerErrorKind.OVERLOADED),
    **dict.fromkeys((408, 504), WorkerErrorKind.TIMEOUT),
}
_INNOCENT = frozenset({424, 425})  # client errors that say nothing against the request
_TELLING = frozenset({400, 403, 413, 422, 500})  # of which the words may say more than the status
_LATER = frozenset(
    {WorkerErrorKind.RATE_LIMITED, WorkerErrorKind.OVERLOADED, WorkerErrorKind.UNAVAILABLE, WorkerErrorKind.TIMEOUT}
)
_WAITS = frozenset({WorkerErrorKind.RATE_LIMITED, WorkerErrorKind.OVERLOADED})
_MAX_MESSAGE = 500  # characters of the backend's own words
_SEARCHED = 4096  # characters of a message that are searched for what it says
_DEPTH = 4  # how deep in an error object a message is looked for

# Codes and types of error objects, in lower case; the first that is contained counts.
_TOO_LONG = ("context_length", "context_size", "context_window")
_FILTERED = ("content_filter", "content_policy", "responsibleaipolicyviolation", "moderation_blocked")
_NO_QUOTA = ("insufficient_quota", "billing", "exceeded_current_quota", "insufficient_balance")
_BY_CODE: tuple[tuple[WorkerErrorKind, tuple[str, ...]], ...] = (
    (WorkerErrorKind.CONTEXT_TOO_LONG, _TOO_LONG),
    (WorkerErrorKind.CONTENT_FILTERED, _FILTERED),
    (WorkerErrorKind.RATE_LIMITED, (*_NO_QUOTA, "rate_limit", "ratelimit", "too_many_requests", "resource_exhausted")),
    (WorkerErrorKind.OVERLOADED, ("overloaded", "unavailable")),
    (WorkerErrorKind.TIMEOUT, ("timeout", "deadline_exceeded")),
    (WorkerErrorKind.AUTH, ("authentication", "permission", "api_key", "unauthorized", "forbidden")),
    (WorkerErrorKind.BAD_REQUEST, ("invalid_request", "badrequest", "bad_request", "not_found", "notfound")),
    (WorkerErrorKind.BAD_REQUEST, ("validation", "invalid_argument", "too_large", "unprocessable", "not_supported")),
)
# Words of messages, for backends whose codes do not tell.
_TOO_LONG_WORDS = (
    "maximum context length",
    "model's context length",  # vLLM, SGLang
    "maximum model length",  # vLLM
    "available context size",  # llama.cpp
    "exceeds the context",  # Ollama, LM Studio
    "greater than the context length",  # LM Studio
    "context the overflows",  # LM Studio, in its own words
    "exceed context limit",  # Anthropic
    "prompt is too long",  # Anthropic
    "too large to process",  # llama.cpp, texts to embed
    "tokens + `max_new_tokens`",  # TGI: `inputs` tokens + `max_new_tokens` must be <= …
    "`inputs` must have less than",  # TGI
    "too many tokens",  # Cohere
)
_FILTERED_WORDS = ("content management policy", "flagged by our moderation", "rejected as a result of our safety")


def status_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    secrets: Sequence[str] = (),
    kind: WorkerErrorKind | None = None,
) -> WorkerError:
    """The error for an answer whose status is not 2xx.

    `headers` are looked up in lower case, `body` may be cut, `now` is the time of day (Unix, seconds). `secrets` are
    never repeated in the message, and nothing that the backend says about credentials is. `kind` is for a dialect that
    knows better than status and words tell.
    """
    error = _decoded(body)
    message = _text_of(error)
    codes = _codes(error)
    found, retryable = _meaning(status, codes, message)
    if kind is not None:
        found, retryable = kind, kind in _LATER
    wait = retry_after(headers, now)
    if wait is None and found in _WAITS:
        wait = told_wait(error, message)
        if wait is None and found is WorkerErrorKind.RATE_LIMITED:
            wait = asked_wait(headers)
    told = _told(found, message, secrets)
    return WorkerError(
        found, f"the backend answered {status}{told}", retryable=retryable, retry_after=wait, status=status
    )


def in_band_error(error: Any, *, secrets: Sequence[str] = (), kind: WorkerErrorKind | None = None) -> WorkerError:
    """The error for a decoded error object that came where an answer, or the rest of one, should be. `kind`: see
    `status_error`."""
    message, codes, status = _text_of(error), _codes(error), _status_in(error)
    found, retryable = _by_words(codes, message) if status is None else _meaning(status, codes, message)
    if kind is not None:
        found, retryable = kind, kind in _LATER
    wait = told_wait(error, message) if found in _WAITS else None
    told = _told(found, message, secrets)
    return WorkerError(found, f"the backend sent an error{told}", retryable=retryable, retry_after=wait)


def message_in(body: bytes) -> str:
    """The words of an error body: OpenAI's `error.message`, FastAPI's `detail`, or plain text; empty for HTML."""
    return _text_of(_decoded(body))


def _decoded(body: bytes) -> Any:
    """An error body as JSON, else its text; empty for HTML."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else text


def _meaning(status: int, codes: str, message: str) -> tuple[WorkerErrorKind, bool]:
    """What a status says, the error's words considered, and whether the same call may succeed later or elsewhere."""
    kind = _about_content(codes, message) if status in _TELLING else None
    kind = kind or _BY_STATUS.get(status, WorkerErrorKind.UNAVAILABLE)
    if kind is WorkerErrorKind.UNAVAILABLE:
        return kind, status >= 500 or status in _INNOCENT
    return kind, kind in _LATER and status != _UNPAID and not _contains(codes, _NO_QUOTA)


def _by_words(codes: str, message: str) -> tuple[WorkerErrorKind, bool]:
    """`_meaning` of an error without a status."""
    kind = next((kind for kind, words in _BY_CODE if _contains(codes, words)), None)
    if kind is None or kind is WorkerErrorKind.BAD_REQUEST:
        kind = _about_content("", message) or kind or WorkerErrorKind.UNAVAILABLE
    return kind, kind in _LATER and not _contains(codes, _NO_QUOTA)


def _about_content(codes: str, message: str) -> WorkerErrorKind | None:
    """Whether the error is about what, or how much, was to be read."""
    words = message[:_SEARCHED].lower()
    if _contains(codes, _FILTERED) or _contains(words, _FILTERED_WORDS):
        return WorkerErrorKind.CONTENT_FILTERED
    if _contains(codes, _TOO_LONG) or _contains(words, _TOO_LONG_WORDS):
        return WorkerErrorKind.CONTEXT_TOO_LONG
    return None


def _contains(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def _inner(error: Any) -> dict[str, Any]:
    """The error object itself, which may be in one of the same name."""
    if isinstance(error, list) and error:  # Google's list of one
        error = error[0]
    fields = error if isinstance(error, dict) else {}
    inner = fields.get("error")
    return inner if isinstance(inner, dict) else fields


def _codes(error: Any) -> str:
    """The error object's own words for what it is, in lower case."""
    fields = _inner(error)
    azure = fields.get("innererror")
    found = [fields.get(name) for name in ("code", "type", "error_type", "status")]
    if isinstance(azure, dict):
        found.append(azure.get("code"))
    if isinstance(error, dict) and error is not fields:
        found.append(error.get("type"))
    return " ".join([word for word in found if isinstance(word, str)])[:_SEARCHED].lower()


def _status_in(error: Any) -> int | None:
    """The status that an error object names, if it does."""
    fields = _inner(error)
    for name in ("code", "status", "status_code", "http_status_code"):
        code = fields.get(name)
        if isinstance(code, str) and len(code) == 3 and code.isdecimal():
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:
            return code
    return None


def _told(kind: WorkerErrorKind, message: str, secrets: Sequence[str]) -> str:
    if kind is WorkerErrorKind.AUTH:
        return " to our credentials"  # backends repeat keys, or parts of them, here
    for secret in secrets:
        message = message.replace(secret, "[secret]")
    message = " ".join(message.split())
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    return f": {message}" if message else ""


def _text_of(error: Any, depth: int = _DEPTH) -> str:
    match error:
        case str():
            return error
        case list() if depth:
            return "; ".join(filter(None, [_text_of(item, depth - 1) for item in error[:3]]))
        case {"msg": str(text), "loc": list(where)}:  # an item of FastAPI's `detail`
            return f"{'.'.join(map(str, where))}: {text}"
        case dict() if depth:
            texts = (_text_of(error.get(key), depth - 1) for key in ("error", "message", "detail"))
            return next(filter(None, texts), "")
        case _:
            return ""
