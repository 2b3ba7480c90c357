"""Calls of a running daemon's admin API: on the Unix socket in its data folder, or by its address."""

import os
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from config.access import is_loopback
from config.environment import apply
from config.errors import ConfigError
from config.findings import Findings
from config.schema import ServerSection
from config.source import find, read
from pipeline.knowledge.places import socket_address
from pipeline.process.admin_types import ErrorAnswer, ErrorDetail
from pipeline.process.prepare import SOCKET_NAME

TOKEN_VARIABLE = "HEADGATE_ADMIN_TOKEN"  # noqa: S105 - its name; not an option: those are shown to all on the machine
_CONNECT_S = 5.0
_READ_S = 30.0
_PERHAPS_TLS = "; if it uses TLS, ask it with --url https://…"


class OperateFailed(Exception):
    """There is no answer, or it is no. The message says why and, where it helps, what to do."""


class Daemon:
    """A daemon that can be asked while this context is open. `url` is an address of its admin API; without one it is
    the one whose data folder is `folder`. `cacert` is a file with the certificates to trust. Raises OperateFailed."""

    def __init__(self, folder: Path, url: str | None = None, cacert: Path | None = None) -> None:
        self._path = folder / SOCKET_NAME
        self._url = None if url is None else _checked(url)
        self._cacert = cacert
        self._held = ExitStack()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        self._session = aiohttp.ClientSession(connector=self._connector(), timeout=timeout, headers=self._headers())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
        self._held.close()

    async def get(self, path: str, within: float = _READ_S) -> bytes:
        """Waits `within` seconds. Raises OperateFailed."""
        return await self._call("GET", path, within=within)

    async def change(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
        """Takes as long as it takes. Raises OperateFailed, and ConfigError with what is wrong with a configuration."""
        return await self._call(method, path, body, headers)

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        within: float | None = None,
    ) -> bytes:
        if self._session is None:
            raise RuntimeError("the context must be open")
        sent = dict(headers or {})
        data = None
        if body is not None:
            data, sent["Content-Type"] = msgspec.json.encode(body), "application/json"
        url = URL((self._url or "http://headgate") + path, encoded=True)
        limit = aiohttp.ClientTimeout(total=within, sock_connect=_CONNECT_S)
        try:
            async with self._session.request(method, url, data=data, headers=sent, timeout=limit) as response:
                answer = await response.read()
                if response.status != 200:
                    raise _refusal(response, answer)
                return answer
        except aiohttp.ClientConnectorCertificateError as error:
            hint = "name the file with the certificate that signed it with --cacert"
            raise OperateFailed(f"the certificate of {self._url} is not trusted here: {hint}") from error
        except aiohttp.ClientConnectorSSLError as error:
            hint = "if it does not use TLS, ask it with --url http://…"
            raise OperateFailed(f"no TLS with {self._url} ({_tls_reason(error)}): {hint}") from error
        except aiohttp.ClientConnectorError as error:
            raise OperateFailed(self._unreachable(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or "it took too long"
            hint = "" if self._url is None or self._url.startswith("https:") else _PERHAPS_TLS
            raise OperateFailed(f"the daemon at {self._where} did not answer as it should: {reason}{hint}") from error

    @property
    def _where(self) -> str:
        return self._url or str(self._path)

    def _connector(self) -> aiohttp.BaseConnector:
        if self._url is None:
            try:
                return aiohttp.UnixConnector(self._held.enter_context(socket_address(self._path)))
            except OSError as error:
                raise OperateFailed(_nobody(self._path)) from error
        if self._cacert is None:
            return aiohttp.TCPConnector()
        try:
            return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self._cacert))
        except (OSError, ssl.SSLError) as error:
            raise OperateFailed(f"cannot read certificates from {self._cacert}: {error}") from error

    def _headers(self) -> dict[str, str]:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if self._url is None or not token:
            return {}
        parts = urlsplit(self._url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise OperateFailed(f"the token in {TOKEN_VARIABLE} would travel in the open: use https://")
        return {"Authorization": f"Bearer {token}"}

    def _unreachable(self, error: aiohttp.ClientConnectorError) -> str:
        if self._url is not None:
            return f"nothing answers at {self._url}: {_why(error.os_error)}"
        if isinstance(error.os_error, PermissionError):
            return f"{self._path} is for the user that the daemon runs as; ask by its address with --url"
        return _nobody(self._path)


def data_folder(config_file: Path | None) -> Path:
    """The one that is configured. The rest of the configuration may be as wrong as it likes: whoever is about to mend
    it may want to see how the daemon is. Raises ConfigError when the file cannot be read at all, or this key not."""
    source = read(*find(config_file, os.environ))
    findings = Findings(source)
    apply(source.tree, os.environ, findings)
    server = source.tree.get("server", {})
    folder = server.get("data_dir", ServerSection().data_dir) if isinstance(server, dict) else None
    if not isinstance(folder, str) or not folder:
        findings = Findings(source)
        findings.add(("server", "data_dir"), "no path", "the path of a folder")
        findings.raise_if_any()
    return Path(str(folder))


def named(kind: str, name: str) -> str:
    """The path of a worker or route: names may hold slashes."""
    return f"/{kind}/{quote(name, safe='')}"


def _tls_reason(error: aiohttp.ClientConnectorSSLError) -> str:
    reason = getattr(error.os_error, "reason", None)  # ssl.SSLError's
    return str(reason).replace("_", " ").lower() if reason else str(error.os_error)


def _why(error: OSError) -> str:
    """asyncio puts the address where the reason would be."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)


def _nobody(path: Path) -> str:
    return (
        f"no daemon answers at {path}: start one with `headgate serve`, name its configuration with --config, "
        "or its address with --url"
    )


def _checked(url: str) -> str:
    """Raises OperateFailed."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or "@" in url:
        raise OperateFailed(f"{url!r} is no address of an admin API: expected https://HOST:PORT")
    return url.rstrip("/")


def _refusal(response: aiohttp.ClientResponse, answer: bytes) -> Exception:
    origin = response.url.origin()
    try:
        detail = msgspec.json.decode(answer, type=ErrorAnswer).error
        if "type" in msgspec.json.decode(answer)["error"]:  # as OpenAI's errors have it, and the admin API's have not
            hint = "that has an address of its own, see admin.host and admin.port"
            return OperateFailed(f"{origin} is where prompts go, not the admin API: {hint}")
    except msgspec.DecodeError:
        return OperateFailed(f"{origin} answered {response.status}, and not as an admin API does")
    if detail.problems:
        return ConfigError(detail.problems)
    return OperateFailed(_told(response.status, detail))


def _told(status: int, detail: ErrorDetail) -> str:
    if status != 401:
        return detail.message
    if os.environ.get(TOKEN_VARIABLE):
        return f"the daemon does not know the token in {TOKEN_VARIABLE}"
    return f"the daemon wants the token of its admin.token: put it into the environment as {TOKEN_VARIABLE}"
