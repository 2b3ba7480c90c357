"""The admin API's HTTP: who may call, which endpoint a call is for, and its body."""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from pipeline.process.admin_errors import AdminError, BadCall, Forbidden, NotJson, NotThere, Unauthorized, WrongMethod
from pipeline.process.admin_types import ErrorAnswer, ErrorDetail

JSON = "application/json"
_READING = {"GET", "HEAD"}
_NAMED = "{name}"
_BRACKETED = re.compile(r"\[([^\]]*)\](?::\d*)?")


class Call(NamedTuple):
    """`name` is the worker's or route's in the path, empty where there is none. `body` is what the JSON said, None
    without one."""

    name: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


Answer = msgspec.Struct | Sequence[msgspec.Struct] | Mapping[str, Any] | web.Response
Endpoint = Callable[[Call], Awaitable[Answer]]


class Router:
    """`endpoints` by method and path, where `{name}` stands for a name. Names may hold slashes, as they are or encoded:
    where two paths fit, the longer one counts (a worker `a/drain` is `a%2Fdrain` in a path that ends behind it)."""

    def __init__(self, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._methods: dict[str, dict[str, Endpoint]] = {}
        for (method, path), endpoint in endpoints.items():
            self._methods.setdefault(path, {})[method] = endpoint
        paths = sorted(self._methods, key=len, reverse=True)
        self._patterns = [
            (re.compile(re.escape(path).replace(re.escape(_NAMED), "(.+)"), re.DOTALL), path) for path in paths
        ]

    def find(self, method: str, raw_path: str) -> tuple[Endpoint, str]:
        """The endpoint, and the name in the path. Raises NotThere, WrongMethod, BadCall."""
        allowed: list[str] = []
        for pattern, path in self._patterns:
            match = pattern.fullmatch(raw_path)
            if match is None:
                continue
            endpoint = self._methods[path].get("GET" if method == "HEAD" else method)
            if endpoint is not None:
                return endpoint, _decoded(match[1]) if match.groups() else ""
            allowed += self._methods[path]
        if allowed:
            raise WrongMethod(method, sorted(allowed))
        listed = ", ".join(sorted(self._methods))
        raise NotThere("unknown_url", f"There is nothing at {raw_path[:80]!r}; there is {listed}")


class Guard:
    """Decides who may call on a listener that others than this user can reach.

    With a token, whoever sends it. Without one, whoever is on this machine, but no web page that is open in a browser
    here: not by a name of its own that it has pointed at this machine (DNS rebinding: the `Host` must be an address or
    `localhost`), nor as a request across sites, which browsers mark with `Origin`.
    """

    def __init__(self) -> None:
        self.token: str | None = None

    def check(self, headers: Mapping[str, str], scheme: str) -> None:
        """Raises Unauthorized, Forbidden."""
        origin, host = headers.get(hdrs.ORIGIN), headers.get(hdrs.HOST, "")
        if origin is not None and origin.lower() != f"{scheme}://{host}".lower():
            raise Forbidden("origin_not_allowed", "Web pages may not call the admin API", param="Origin")
        if self.token is not None:
            self._check_token(headers.get(hdrs.AUTHORIZATION, ""), self.token)
        elif not _local(host):
            message = f"Call it by an IP address or as localhost, not as {host[:80]!r}, or configure admin.token"
            raise Forbidden("host_not_allowed", message, param="Host")

    def _check_token(self, given: str, token: str) -> None:
        scheme, _, secret = given.partition(" ")
        same = hmac.compare_digest(secret.strip().encode(errors="surrogateescape"), token.encode())
        if scheme.lower() != "bearer" or not same:
            wrong = "This token is not the one of admin.token" if given else "The admin API wants its token"
            raise Unauthorized(f"{wrong}: send it as Authorization: Bearer …")


def body_of(data: bytes, headers: Mapping[str, str]) -> Any:
    """What a body says. A form, or what a web page may send without asking, is none. Raises NotJson, BadCall."""
    if not data:
        return None
    media = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media != JSON:
        raise NotJson("unsupported_media_type", f"Send JSON, with Content-Type: {JSON}", param="Content-Type")
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise BadCall("invalid_json", f"The body is no JSON: {str(error)[:200]}") from error


def table_in(call: Call, what: str) -> dict[str, Any]:
    """The body, which must be an object. Raises BadCall."""
    if not isinstance(call.body, dict):
        raise BadCall("invalid_type", f"The body must be a JSON object: {what}")
    return call.body


def no_query(call: Call, *known: str) -> None:
    """Raises BadCall when the query says anything else."""
    for key in call.query:
        if key not in known:
            listed = f"there is {', '.join(known)}" if known else "there is none here"
            raise BadCall("unknown_parameter", f"Unknown query {key[:80]!r}: {listed}", param=key[:80])


def no_body(call: Call) -> None:
    """Raises BadCall when there is one that says anything."""
    if call.body not in (None, {}):
        raise BadCall("unknown_parameter", "This call takes no body")


def flag(call: Call, name: str) -> bool:
    """A query that is true or false. Raises BadCall."""
    value = call.query.get(name, "false")
    if value not in {"true", "false"}:
        raise BadCall("invalid_value", f"{name} must be true or false, not {value[:80]!r}", param=name)
    return value == "true"


def reply(answer: Answer) -> web.Response:
    if isinstance(answer, web.Response):
        return answer
    return web.Response(body=msgspec.json.encode(answer), content_type=JSON)


def failure(error: AdminError) -> web.Response:
    detail = ErrorDetail(error.message, error.code, error.param, list(error.problems))
    try:
        body = msgspec.json.encode(ErrorAnswer(detail))
    except UnicodeEncodeError:  # bytes of a head that are no UTF-8 became lone surrogates
        message = error.message.encode("utf-8", "replace").decode()
        body = msgspec.json.encode(ErrorAnswer(ErrorDetail(message, error.code)))
    return web.Response(status=error.status, body=body, content_type=JSON, headers=error.headers)


def is_change(method: str) -> bool:
    return method not in _READING


def _decoded(raw: str) -> str:
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise BadCall("invalid_value", f"The name in the path is not UTF-8: {raw[:80]!r}") from error


def _local(host: str) -> bool:
    """Whether a `Host` is an address, or this machine's own name for itself."""
    bracketed = _BRACKETED.fullmatch(host)
    name = bracketed[1] if bracketed else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
