"""A simulated model backend: an OpenAI-compatible server with a known capacity.

`python -m benchmarks.backend --help`; prints `{"urls": [...]}` when it listens. `docs/reference/simulated-backend.md`.
"""

import asyncio
import ctypes
import errno
import gc
import itertools
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop
from aiohttp import web

from benchmarks.service import Service
from benchmarks.simulated.control import Control
from benchmarks.simulated.replica import MOST_BYTES, Replica
from benchmarks.simulated.settings import Place, changed, explained, from_file, from_text
from config.errors import ConfigError, Problem, report

_PR_SET_PDEATHSIG = 1
_BACKLOG = 4096
S = TypeVar("S", bound=msgspec.Struct)
Command = Callable[..., None]


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _options(schema: type[msgspec.Struct]) -> Callable[[Command], Command]:
    """An option for each field. Texts here: they are checked together, so that all problems are told at once."""
    texts = explained(schema)

    def decorate(command: Command) -> Command:
        for field in reversed(msgspec.structs.fields(schema)):
            default = "none" if field.default is None else str(field.default).lower()
            explanation = f"{texts.get(field.name, '')}  [default: {default}]"
            command = click.option(_option(field.name), field.name, metavar="VALUE", help=explanation)(command)
        return command

    return decorate


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_options(Place)
@click.option("--service", type=click.Path(path_type=Path), metavar="FILE", help="Settings as TOML; options win.")
@_options(Service)
@click.option("--with-parent", is_flag=True, help="End when the process that started it ends, however that ends.")
def main(service: Path | None, *, with_parent: bool, **texts: str | None) -> None:
    """Run a simulated model backend: so many slots, so long a request, whatever the machine can do."""
    given = {key: text for key, text in texts.items() if text is not None}
    try:
        place, settings = _configured(service, given)
    except ConfigError as refused:
        click.echo(report(refused.problems, lambda path: click.style(path, bold=True)), err=True)
        raise SystemExit(2) from None
    if with_parent:
        _end_with_parent()
    sockets = _listen(place)
    _allow_connections()
    uvloop.run(serve(settings, sockets))


def _configured(file: Path | None, given: Mapping[str, str]) -> tuple[Place, Service]:
    """Raises ConfigError with every problem of the file and the options."""
    problems: list[Problem] = []

    def attempt(make: Callable[[], S], otherwise: S) -> S:
        try:
            return make()
        except ConfigError as refused:
            problems.extend(refused.problems)
            return otherwise

    read = attempt(lambda: Service() if file is None else from_file(file), Service())
    place = attempt(lambda: changed(Place(), _values(Place, given), _option), Place())
    service = attempt(lambda: changed(read, _values(Service, given), _option), read)
    if problems:
        raise ConfigError(problems)
    return place, service


def _values(schema: type[msgspec.Struct], given: Mapping[str, str]) -> dict[str, Any]:
    return {key: from_text(schema, key, given[key]) for key in schema.__struct_fields__ if key in given}


def _listen(place: Place) -> list[socket.socket]:
    """One socket a replica."""
    sockets = []
    for index in range(place.replicas):
        port = place.port + index if place.port else 0
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        try:
            sockets.append(socket.create_server((place.host, port), family=family, backlog=_BACKLOG))
        except OSError as error:
            said = (error.strerror or str(error)).partition(" (while ")[0]  # what create_server adds, we say better
            why = "the port is in use" if error.errno == errno.EADDRINUSE else said
            raise click.ClickException(f"cannot listen on {place.host} port {port}: {why}") from None
    return sockets


def _end_with_parent() -> None:
    """See prctl(2). Nobody else would end it when its parent is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _allow_connections() -> None:
    """As many descriptors as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(service: Service, sockets: list[socket.socket]) -> None:
    """Until SIGTERM or SIGINT. Open requests are broken off then: clients of a load test know what that means."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    urls = [_url(listening) for listening in sockets]
    unmarked = itertools.count()
    servers = []
    for index, listening in enumerate(sockets):
        replica = Replica(service, unmarked)
        Control(replica, index, urls)
        servers.append(await loop.create_server(_http(replica, loop), sock=listening, backlog=_BACKLOG))
    gc.freeze()
    print(msgspec.json.encode({"urls": urls}).decode(), flush=True)
    await stop.wait()
    for server in servers:
        server.close()


def _http(replica: Replica, loop: asyncio.AbstractEventLoop) -> web.Server:
    """aiohttp's server without its router; a client that goes away cancels its handler."""

    def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MOST_BYTES)

    return web.Server(replica, request_factory=request, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    main()
