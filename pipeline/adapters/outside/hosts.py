"""Which addresses may be called."""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from yarl import URL

from pipeline.workflow.errors import StepFailed


class _Rule(NamedTuple):
    """`host` in normal form; `below` for all names under it and not itself; `port` None for any."""

    host: str
    below: bool
    port: int | None


class AllowedHosts:
    """The configured list (`workflows.hosts`): names, `*.` before one for all under it, addresses ([…] around those of
    IPv6), each perhaps with a port."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._rules = [_rule(host) for host in hosts]

    def allows(self, host: str, port: int | None) -> bool:
        wanted = _normal(host)
        return any(
            (wanted.endswith(f".{rule.host}") if rule.below else wanted == rule.host)
            and (rule.port is None or rule.port == port)
            for rule in self._rules
        )

    def checked(self, address: str | URL) -> URL:
        """The address, if it may be called. Raises `StepFailed`: `invalid_input` for what is none, `not_allowed`."""
        url = _parsed(address) if isinstance(address, str) else address
        if url.scheme not in {"http", "https"} or not url.raw_host:
            raise _invalid("expected an address that begins with http:// or https://")
        if url.raw_user is not None or url.raw_password is not None:
            raise _invalid("user and password do not belong into an address: send a header")
        if not self.allows(url.raw_host, url.port):
            shown = url.raw_host if url.port is None else f"{url.raw_host}:{url.port}"
            raise StepFailed(
                "not_allowed", f"the host {shown[:200]} is not among those of workflows.hosts", details={"host": shown}
            )
        return url.with_fragment(None)


def _parsed(address: str) -> URL:
    if any(char <= " " or char == "\x7f" for char in address):
        raise _invalid("an address has no spaces and no control characters")
    try:
        url = URL(address)
        url.port  # noqa: B018 - raises for what is no port
    except (ValueError, UnicodeError) as error:
        raise _invalid(f"not an address: {error}"[:200]) from error
    return url


def _invalid(message: str) -> StepFailed:
    return StepFailed("invalid_input", f"url: {message}", details={"field": "url"})


def _rule(host: str) -> _Rule:
    name, _, port = host.rpartition(":")
    if not name or "]" in port:
        name, port = host, ""
    below = name.startswith("*.")
    return _Rule(_normal(name.removeprefix("*.").strip("[]")), below, int(port) if port else None)


def _normal(host: str) -> str:
    """Names in lower case and without the dot of the root; addresses as they are usually written."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.lower().rstrip(".")
