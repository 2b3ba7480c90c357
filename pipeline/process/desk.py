"""Where the supervisor can be asked: the admin API on a Unix socket in the data folder, for this user and for the
shards, and on TCP as the configuration says."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from config.schema import AdminSection, Config, ServerSection
from config.secrets import resolve
from pipeline.knowledge.places import private_socket
from pipeline.observe.overview import Counters
from pipeline.process.admin import Admin
from pipeline.process.admin_http import Guard, Router
from pipeline.process.admin_listener import CONNECTIONS, Listener
from pipeline.process.admin_types import DaemonStatus, ProcessStatus
from pipeline.process.control import Control
from pipeline.process.errors import StartError
from pipeline.process.prepare import address_of, listening
from pipeline.process.tls import Tls, carried, pair_of

__all__ = ["Credentials", "DaemonStatus", "Desk", "ProcessStatus"]

log = structlog.get_logger()


class Credentials(NamedTuple):
    """What the admin API's TCP listener shows and asks for: looked up, and found good."""

    token: str | None
    certificate: ssl.SSLContext | None

    def __repr__(self) -> str:
        return f"Credentials(token={'none' if self.token is None else 'not shown'})"


class Desk:
    """`path` is the Unix socket's, `control` and `counters` are the supervisor's. `address` is where the TCP listener
    is, as a URL; empty while there is none."""

    def __init__(self, path: Path, control: Control, counters: Counters) -> None:
        self.address = ""
        self._path = path
        self._router = Router(Admin(control, counters, lambda: self.address).endpoints())
        self._guard = Guard()
        self._tls: Tls | None = None
        self._listeners: list[Listener] = []

    async def open(self, config: Config) -> None:
        """The data folder's lock must be held: a socket that is there was left by a supervisor that was killed. Raises
        StartError, ConfigError; `close` undoes what was done before."""
        if config.admin.enabled:
            await self._open_tcp(config)
        await self._listen(Listener(self._router), private_socket(self._path))

    async def _open_tcp(self, config: Config) -> None:
        self._guard.token = _token(config)
        pair = pair_of(carried(config).admin)
        self._tls = None if pair is None else Tls(pair, "admin")
        sock = _listening(config.admin)
        address = address_of(sock)
        self.address = address if pair is None else address.replace("http", "https", 1)
        await self._listen(Listener(self._router, self._guard), sock, None if self._tls is None else self._tls.context)
        log.info("admin", address=self.address, token=self._guard.token is not None)

    def prepare(self, config: Config) -> Credentials:
        """What `use` is given once it is certain that this configuration comes into force. Raises ConfigError."""
        if not self.address:
            return Credentials(None, None)
        pair = None if self._tls is None else pair_of(carried(config).admin)
        certificate = self._tls.prepare(pair) if self._tls is not None and pair is not None else None
        return Credentials(_token(config), certificate)

    def use(self, prepared: Credentials) -> None:
        """For calls and connections from now on. Whether there is TLS at all was settled by `open`."""
        self._guard.token = prepared.token
        if self._tls is not None and prepared.certificate is not None:
            self._tls.use(prepared.certificate)

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.stop()
        self._listeners.clear()
        self.address = ""
        with suppress(FileNotFoundError):
            self._path.unlink()

    async def _listen(self, listener: Listener, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        await listener.start(sock, tls)
        self._listeners.append(listener)


def _token(config: Config) -> str | None:
    return None if config.admin.token is None else resolve(config.admin.token, path="admin.token")


def _listening(admin: AdminSection) -> socket.socket:
    """Raises StartError."""
    try:
        return listening(ServerSection(host=admin.host, port=admin.port, backlog=CONNECTIONS))
    except StartError as error:
        message = str(error).replace("server.port", "admin.port").replace("server.host", "admin.host")
        raise StartError(message.replace("Cannot listen", "The admin API cannot listen", 1)) from error
