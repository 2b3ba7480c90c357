"""Where the requests go, and the part of each request that is always the same."""

import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

_ENDPOINT = "/chat/completions"
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FRAMING = frozenset("connection content-length expect keep-alive te trailer transfer-encoding upgrade".split())


class BadUrl(ValueError):
    """Raised when a base URL cannot be used. `shown` is the URL without credentials, `problem` what is wrong."""

    def __init__(self, url: str, problem: str) -> None:
        self.shown = re.sub(r"//[^/?#]*@", "//…@", url)
        self.problem = problem
        super().__init__(f"base URL {self.shown!r}: {problem}")


class BadHeader(ValueError):
    """Raised when a header cannot be sent with every request. The message leaves its value out: it may be a secret."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"header {name!r}: {problem}")


class Address(NamedTuple):
    """`host` as it is looked up, `authority` as the Host header says it, `path` of the endpoint."""

    host: str
    port: int
    tls: bool
    authority: str
    path: str


def address(base_url: str) -> Address:
    """Of a base URL as OpenAI clients take it, such as `http://127.0.0.1:8000/v1`. Raises BadUrl."""
    if any(ord(character) <= 32 or ord(character) == 127 for character in base_url):
        raise BadUrl(base_url, "has a space or a control character in it")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(base_url, str(error)) from error
    _check(base_url, parts)
    if port == 0:
        raise BadUrl(base_url, "port 0 cannot be connected to")
    port = port or _PORTS[parts.scheme]
    host = _host(base_url, parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    return Address(host, port, parts.scheme == "https", authority, parts.path.rstrip("/") + _ENDPOINT)


def _check(url: str, parts: SplitResult) -> None:
    if parts.scheme not in _PORTS:
        raise BadUrl(url, "has to begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise BadUrl(url, "has credentials in it; give them as the API key or a header")
    if not parts.hostname:
        raise BadUrl(url, "names no host")
    if "?" in url or "#" in url:
        raise BadUrl(url, "has a query or a fragment, which a base URL cannot have")
    if not parts.path.isascii():
        raise BadUrl(url, "has characters in its path that have to be percent-encoded")
    if parts.path.rstrip("/").endswith(_ENDPOINT):
        raise BadUrl(url, f"is the endpoint's; leave {_ENDPOINT} away")


def _host(url: str, host: str) -> str:
    try:
        if ":" in host:
            return str(IPv6Address(host))
        ascii_host = host.encode("idna").decode("ascii")
    except (AddressValueError, UnicodeError) as error:
        raise BadUrl(url, f"host {host!r} is none: {error}") from error
    if not _HOST.fullmatch(ascii_host):
        raise BadUrl(url, f"host {host!r} has characters that no host name has")
    return ascii_host


def request_head(to: Address, api_key: str | None, fields: Mapping[str, str]) -> bytes:
    """The request line and the header lines of all requests. `fields` go before our own. Raises BadHeader."""
    lines = {"host": f"Host: {to.authority}"}
    for name, value in _defaults(api_key).items():
        lines[name.lower()] = _line(name, value)
    for name, value in fields.items():
        if name.lower() in _FRAMING:
            raise BadHeader(name, "is set by the client itself")
        lines[name.lower()] = _line(name, value)
    return "\r\n".join([f"POST {to.path} HTTP/1.1", *lines.values(), ""]).encode("latin-1")


def _defaults(api_key: str | None) -> dict[str, str]:
    fields = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "headgate-bench"}
    return fields if api_key is None else fields | {"Authorization": f"Bearer {api_key}"}


def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadHeader(name, "is a name that no header can have")
    if not (value.isascii() and value.isprintable()):
        raise BadHeader(name, "has a value that is not one line of printable ASCII")
    return f"{name}: {value}"
