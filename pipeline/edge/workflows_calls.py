"""Requests of the workflow API, taken apart: what is asked for, of which run, and what was sent along."""

import json
import re
from collections import Counter
from http import HTTPStatus
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from multidict import MultiMapping, istr

from pipeline.core.access import Caller
from pipeline.core.errors import HeadgateError, InvalidRequest, StageFailed
from pipeline.core.outcomes import Priority
from pipeline.edge.call import Call, Response
from pipeline.edge.decode import decode
from pipeline.edge.error_bodies import error_body
from pipeline.edge.errors import InvalidJson, UnknownParameter, UnknownPath, UnsupportedMedia, WrongMethod, error_fields
from pipeline.edge.replies import JSON_FIELD
from pipeline.workflow.errors import DefinitionRefused, InputRefused
from pipeline.workflow.source import Media
from pipeline.workflow.views import ErrorDetail, WorkflowError

T = TypeVar("T")

IDEMPOTENCY_KEY = istr("Idempotency-Key")
LAST_EVENT_ID = istr("Last-Event-ID")
CONTENT_TYPE = istr("Content-Type")
READ = (IDEMPOTENCY_KEY, LAST_EVENT_ID, CONTENT_TYPE)  # headers that these endpoints read, wherever they run
KEY_MAX = 255

_METHODS: dict[tuple[str, ...], dict[str, str]] = {
    ("workflows",): {"GET": "workflows", "POST": "register"},
    ("workflows", "validate"): {"POST": "validate"},
    ("runs",): {"GET": "runs", "POST": "start"},
}
_OF_RUN = {
    "events": {"GET": "events"},
    **{change: {"POST": change} for change in ("pause", "resume", "cancel", "retry", "signal")},
}
_START_AS = "start_as"  # never asked for by clients: a start at the shard that is to execute the run
_is_key = re.compile(rf"[!-~]{{1,{KEY_MAX}}}").fullmatch
_is_number = re.compile(r"[0-9]{1,15}").fullmatch


class Target(NamedTuple):
    """`operation` names what is asked for; `names` are the path's own: a run's id, or a workflow and its version."""

    method: str
    raw_path: str  # as it was sent, with its query
    operation: str
    names: tuple[str, ...]
    query: list[tuple[str, str]]

    @property
    def line(self) -> str:
        """As shards tell each other."""
        return f"{self.method} {self.raw_path}"

    def started_as(self, run_id: str) -> "Target":
        return Target("POST", f"/v1/runs/{run_id}", _START_AS, (run_id,), [])


class Request(NamedTuple):
    """What endpoints are given. The call is one over a connection of this process, or another shard's."""

    call: Call
    caller: Caller
    priority: Priority
    target: Target
    body: bytes


def target(method: str, raw_path: str, *, inside: bool = False) -> Target:
    """`inside`: another shard asks. Raises `UnknownPath`, `WrongMethod` and `InvalidRequest`."""
    path, _, query = raw_path.partition("?")
    segments = _segments(path)
    known, names = _known(segments)
    if inside and segments[0] == "runs" and len(segments) == 2:
        known = {**known, "POST": _START_AS}
    if not known:
        raise UnknownPath(f"Unknown URL ({method} {path[:256]})")
    operation = known.get("GET" if method == "HEAD" else method)
    if operation is None:
        raise WrongMethod(f"{method} is not allowed on {path[:256]}", allowed=methods(path))
    return Target(method, raw_path, operation, names, parse_qsl(query, keep_blank_values=True, errors="replace"))


def methods(path: str) -> list[str]:
    """Those that are answered there. Raises `UnknownPath`."""
    known, _ = _known(_segments(path))
    if not known:
        raise UnknownPath(f"Unknown URL ({path[:256]})")
    return sorted([*known, *(["HEAD"] if "GET" in known else []), "OPTIONS"])


def _segments(path: str) -> tuple[str, ...]:
    return tuple(unquote(segment, errors="replace") for segment in path.removeprefix("/v1/").split("/"))


def _known(segments: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which methods lead to which operation there, and the path's names."""
    if "" in segments:
        return {}, ()
    fixed = dict(_METHODS.get(segments, {}))
    if not fixed and segments[0] == "workflows" and len(segments) in {2, 3}:
        return {"GET": "workflow"}, segments[1:]
    if segments[0] == "runs" and len(segments) == 2:
        return {"GET": "run"}, segments[1:]
    if segments[0] == "runs" and len(segments) == 3:
        return dict(_OF_RUN.get(segments[2], {})), segments[1:2]
    if segments[0] == "runs" and len(segments) > 3 and segments[2] == "steps":
        return {"GET": "step"}, (segments[1], "/".join(segments[3:]))
    return fixed, ()


def fields(asked: Target, *names: str) -> dict[str, list[str]]:
    """The query's parameters, all that there may be. Raises `UnknownParameter`."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for name, value in asked.query:
        if name not in found:
            known = ", ".join(names) or "none"
            raise UnknownParameter(f"Unknown parameter: '{name[:80]}' (there is: {known}).", param=name[:80])
        found[name].append(value)
    return found


def one(found: dict[str, list[str]], name: str) -> str | None:
    """Raises `InvalidRequest` for one that comes twice."""
    values = found[name]
    if len(values) > 1:
        raise InvalidRequest(f"'{name}' may be given once.", param=name)
    return values[0] if values else None


def number(text: str | None, name: str, least: int, most: int, otherwise: int) -> int:
    """Raises `InvalidRequest`."""
    if text is None:
        return otherwise
    if not _is_number(text) or not least <= int(text) <= most:
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a number from {least} to {most}, got {text[:40]!r}.", param=name
        )
    return int(text)


def read(decoder: "msgspec.json.Decoder[T]", request: Request, otherwise: T | None = None) -> T:
    """The body; `otherwise` where there is none. Raises `InvalidRequest`."""
    if not request.body.strip() and otherwise is not None:
        return otherwise
    asked = decode(decoder, request.body)
    refuse_repeated(request.body)
    return asked


def refuse_repeated(body: bytes) -> None:
    """A key that is there twice means one thing or the other. Raises `InvalidJson`. `body` is JSON."""

    def take(pairs: list[tuple[str, object]]) -> None:
        if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise InvalidJson(f"The request's JSON has the key {twice[:80]!r} twice in one object.", param=twice[:80])

    json.loads(body, object_pairs_hook=take, parse_int=float)


def definition(request: Request) -> tuple[bytes, Media]:
    """The body, and what it is written in. Raises `InvalidRequest`, `UnsupportedMedia`."""
    if not request.body.strip():
        raise InvalidRequest("The request has no body: send a definition, as YAML or JSON.")
    return request.body, media(request.call.headers)


def idempotency_key(headers: MultiMapping[str]) -> str | None:
    """Raises `InvalidRequest`."""
    keys = headers.getall(IDEMPOTENCY_KEY, [])
    if not keys:
        return None
    if len(keys) > 1 or not _is_key(keys[0]):
        name = str(IDEMPOTENCY_KEY)
        raise InvalidRequest(f"Invalid header {name}: expected 1 to {KEY_MAX} visible ASCII characters", param=name)
    return keys[0]


def media(headers: MultiMapping[str]) -> Media:
    """`json` or `yaml`, which nearly every JSON is as well. Raises `UnsupportedMedia`."""
    kind = headers.get(CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return "json"
    if not kind or kind.endswith(("/yaml", "/x-yaml", "+yaml")):
        return "yaml"
    raise UnsupportedMedia(f"A workflow cannot be read from {kind[:80]!r}; send application/yaml or application/json")


def check_charset(headers: MultiMapping[str]) -> None:
    """Bodies are UTF-8. Raises `UnsupportedMedia`."""
    for part in headers.get(CONTENT_TYPE, "").split(";")[1:]:
        name, _, value = part.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMedia(f"The body's charset is {value.strip()[:40]!r}; send UTF-8")


def refusal(call: Call, error: HeadgateError) -> Response:
    """As everywhere, and with all that is wrong with a definition or inputs. Who finds no room, or no journal, is told
    when to come back."""
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE and error.retry_after is None:
        error.retry_after = 1.0
    if isinstance(error, DefinitionRefused | InputRefused):
        detail = ErrorDetail(error.message, error.type, error.code, error.param, list(error.faults))
        body = msgspec.json.encode(WorkflowError(detail))
    else:
        body = error_body(call.path, error, call.request_id)
    return call.reply(body, JSON_FIELD + error_fields(error), error.status)


def failed() -> StageFailed:
    return StageFailed("The server failed on this request")
