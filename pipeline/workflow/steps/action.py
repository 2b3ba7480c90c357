"""`action`: the log, other hosts, files. What is allowed is the business of `pipeline.workflow.ports.Outside`."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from pipeline.workflow.definition import ActionStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result, StepContext
from pipeline.workflow.steps import values
from pipeline.workflow.values import TOO_MANY, too_many

_PASSING = frozenset({408, 425, 429})  # and 5xx: another attempt may be answered otherwise
_LONGEST = 86_400.0  # seconds: no Retry-After is waited for longer
_SHOWN = 1000  # characters of an answer in the error's details
_JSON = "application/json"
# Of Python's other codecs some are no charsets, and some take the square of a text's length.
_CHARSET = re.compile(
    r"us-ascii|ascii|utf-?8|utf-?16|utf-16-?[lb]e|latin-?1|iso-8859-(?:[1-9]|1[013-6])|windows-125[0-8]"
).fullmatch


async def action(step: ActionStep, context: StepContext) -> Result:
    """See `ActionStep`. The value of `log` is its message; of `http_request` and `webhook` `{status, headers, body}`,
    the body parsed where it is JSON, else a text, None where there is none; of `file_write` `{path, bytes}`. A webhook
    without a body sends `{run_id, step}`."""
    return await _ACTIONS[step.action](step, context)


async def _log(step: ActionStep, context: StepContext) -> Result:
    message = values.text(context, "message")
    context.services.outside.log(step.level, message, {"run_id": context.run_id, "step": context.path})
    return Result(message)


async def _request(step: ActionStep, context: StepContext) -> Result:
    url = values.name(context, "url")
    method = step.method or ("POST" if step.action == "webhook" else "GET")
    body, kind = _body(step, context)
    headers = {}
    for name in step.headers:
        await context.turn()
        headers[name] = values.text(context, f"headers.{name}")
    _default(headers, "Idempotency-Key", context.idempotency_key)
    if body is not None:
        _default(headers, "Content-Type", kind)
    outside = context.services.outside
    status, found, answer = await outside.request(method, url, headers, body, context.remaining)
    await context.turn()  # large answers may have come at the same time
    value = {"status": status, "headers": found, "body": _answer(found.get("content-type", ""), answer)}
    expected = status in step.expect_status if step.expect_status is not None else 200 <= status <= 299
    if not expected:
        raise _unexpected(method, url, status, found, answer)
    return Result(value, {"metadata": {"status": status}})


async def _write(step: ActionStep, context: StepContext) -> Result:
    path = values.name(context, "path")
    given = context.value("content")
    if given is UNSET:
        raise StepFailed("invalid_input", "content: missing", details={"field": "content"})
    content = given.encode("utf-8", "replace") if isinstance(given, str) else values.encoded("content", given)
    key = context.idempotency_key
    written = await context.services.outside.write(path, content, append=step.append, key=key)
    return Result({"path": written, "bytes": len(content)})


_ACTIONS: dict[str, Callable[[ActionStep, StepContext], Awaitable[Result]]] = {
    "log": _log,
    "http_request": _request,
    "webhook": _request,
    "file_write": _write,
}


def _body(step: ActionStep, context: StepContext) -> tuple[bytes | None, str]:
    """With its type: a text goes as it is, anything else as JSON."""
    if step.body is UNSET:
        if step.action == "webhook":
            return values.encoded("body", {"run_id": context.run_id, "step": context.path}), _JSON
        return None, _JSON
    given = context.value("body")
    if isinstance(given, str):
        return given.encode("utf-8", "replace"), _JSON if step.action == "webhook" else "text/plain; charset=utf-8"
    return values.encoded("body", given), _JSON


def _default(headers: dict[str, str], name: str, value: str) -> None:
    if not any(given.lower() == name.lower() for given in headers):
        headers[name] = value


def _answer(kind: str, body: bytes) -> Any:
    """JSON, where it is what it says; else a text, by the charset that it names or as UTF-8."""
    if not body:
        return None
    essence, _, options = kind.partition(";")
    essence = essence.strip().lower()
    if essence == _JSON or essence.endswith("+json"):
        if too_many(body):
            raise StepFailed("too_large", f"the answer is too large: {TOO_MANY}")
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # then it is a text like others
    charset = options.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    return body.decode(charset if _CHARSET(charset) else "utf-8", "replace")


def _unexpected(method: str, url: str, status: int, headers: dict[str, str], body: bytes) -> StepFailed:
    """Without the address' query: keys stand there."""
    parts = urlsplit(url)
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    return StepFailed(
        "http_status",
        f"{method} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} was answered with {status}{phrase}",
        retryable=status in _PASSING or 500 <= status <= 599,
        retry_after=_retry_after(headers.get("retry-after")),
        details={"status": status, "body": body[:_SHOWN].decode("utf-8", "replace")},
    )


def _retry_after(given: str | None) -> float | None:
    """Seconds, of `Retry-After` (RFC 9110, 10.2.3): a number of them or a date."""
    if given is None:
        return None
    if given.isascii() and given.isdecimal():
        return min(float(given[:9]), _LONGEST)
    try:
        moment = parsedate_to_datetime(given)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST)
