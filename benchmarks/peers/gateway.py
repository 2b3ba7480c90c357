"""What a gateway has to be able to do, and what they have in common: start, first answer, end."""

import http.client
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from benchmarks.peers.interrupt import Tick
from benchmarks.peers.process import Server
from benchmarks.service import Service

READY_LIMIT = 60.0  # seconds from start to the first answer
_ANSWER_LIMIT = 10.0


class CannotPrepare(Exception):
    """Raised when a gateway cannot be installed; the message says why."""


class CannotStart(Exception):
    """Raised when a gateway, or the backend, does not come up; the message says why and ends with its log's last
    lines."""


class Backend(NamedTuple):
    """The simulated backend: its URL, to which clients add `/v1`, and what it does."""

    url: str
    service: Service


class Running:
    """A gateway that answers. `base_url` is an OpenAI client's, with `/v1`; `api_key` None: it wants none.

    `server` None: no process of its own.
    """

    def __init__(self, base_url: str, model: str, *, api_key: str | None = None, server: Server | None = None) -> None:
        self.base_url = base_url
        self.model = model
        self.api_key = api_key
        self.server = server

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.server.members()] if self.server is not None else []

    @property
    def log(self) -> Path | None:
        return self.server.log if self.server is not None else None

    def death(self) -> str | None:
        """How it ended, if it did."""
        if self.server is None or self.server.status is None:
            return None
        return f"it ended (exit status {self.server.status}); its last lines:\n{self.server.last_lines()}"

    def stop(self) -> None:
        """End all of its processes."""
        if self.server is not None:
            self.server.stop()


class Gateway(Protocol):
    """`name` as it is asked for and shown; `version` of the product."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def prepare(self, tick: Tick) -> None:
        """Install what it needs; costs nothing when that is there. Raises CannotPrepare, Interrupted."""

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        """A fresh one before `backend`, with its files in `folder`. It has answered once when this returns.

        Raises CannotStart and Interrupted; then nothing of it is left running.
        """


def bare_environment(folder: Path, programs: Path | None = None) -> dict[str, str]:
    """Nothing of the user's: keys, proxies and settings there would change what is measured."""
    path = os.defpath if programs is None else f"{programs}{os.pathsep}{os.defpath}"
    return {
        "PATH": path,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
        "PYTHONUNBUFFERED": "1",
    }


def launch(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    tick: Tick,
    *,
    base_url: str | None,
    model: str,
    api_key: str | None = None,
    limit: float = READY_LIMIT,
) -> Running:
    """Start a gateway and wait for its first answer. Raises CannotStart and Interrupted, and leaves nothing behind.

    `base_url` None: it chooses its port, and prints its base URL on a line of its own.
    """
    try:
        server = Server(arguments, environment, log)
    except OSError as error:
        raise CannotStart(f"{arguments[0]}: {(error.strerror or str(error)).lower()}") from error
    running = Running(base_url or "", model, api_key=api_key, server=server)
    try:
        _wait_ready(running, limit, tick)
        server.members()  # what leaves its session later is known by its parent only while that lives
    except BaseException:
        running.stop()
        raise
    return running


def _wait_ready(running: Running, limit: float, tick: Tick) -> None:
    deadline = time.monotonic() + limit
    server = running.server
    assert server is not None
    while (wrong := _unready(running, server)) is not None:
        death = running.death()
        if death is not None:
            raise CannotStart(death)
        if time.monotonic() > deadline:
            said = f"it was not ready within {limit:g} s ({wrong})"
            raise CannotStart(f"{said}; its last lines:\n{server.last_lines()}")
        tick()


def _unready(running: Running, server: Server) -> str | None:
    """What is still missing."""
    if not running.base_url:
        urls = [line for line in server.last_lines(100).splitlines() if line.startswith("http://")]
        if not urls:
            return "it has not said where it listens"
        running.base_url = urls[0]
    return ask(running)


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def ask(running: Running) -> str | None:
    """One small chat completion. What is wrong with its answer, in a few words; None: nothing."""
    url = urlsplit(running.base_url)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=_ANSWER_LIMIT)
    fields = {"Content-Type": "application/json"}
    if running.api_key is not None:
        fields["Authorization"] = f"Bearer {running.api_key}"
    question = {"model": running.model, "messages": [{"role": "user", "content": "ready"}], "max_tokens": 1}
    try:
        connection.request("POST", f"{url.path}/chat/completions", msgspec.json.encode(question), fields)
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    if response.status != 200:
        return f"{response.status} {' '.join(data.decode(errors='replace').split())[:200]}"
    return _unlike_completion(data)


def _unlike_completion(data: bytes) -> str | None:
    try:
        choices = msgspec.json.decode(data, type=_Completion).choices
    except msgspec.MsgspecError as error:
        return f"no chat completion: {error}"
    return None if choices and choices[0].message.content else "an empty answer"
