"""The worker for a model file in GGUF, which llama.cpp serves in a process of its own on this machine.

The daemon starts that process and keeps it alive, one for all shards. It speaks OpenAI's dialect over a Unix socket
that only the daemon's user can open.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import aiohttp

from config.schema import LlamaCppWorker, OpenAIWorker
from workers import llama_files
from workers.base import Health
from workers.errors import WorkerError, WorkerErrorKind, WorkerUnavailable
from workers.llama_files import PACKAGE, Files
from workers.openai import OpenAICompatible
from workers.refusals import status_error
from workers.transport import HttpClient, settle

INSTALL_HINT = "pip install 'headgate[llama-cpp]'"
_URL = "http://llama.cpp/v1"  # the name means nothing: all goes to the socket
_AGAIN = 1.0  # seconds after which a process may be there that is starting
_CONNECTIONS = 4096
_MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107
_LOADING = 503
_NOT_THIS_MODEL = 501


class LlamaCpp(OpenAICompatible):
    """`data_dir` is the server's, where the daemon's process for this section is found. Closing it lets that process
    end, should it have been told to. Raises `WorkerUnavailable` where llama.cpp is not installed."""

    def __init__(self, section: LlamaCppWorker, data_dir: Path) -> None:
        if find_spec(PACKAGE) is None:
            raise WorkerUnavailable("kind", f'"llama-cpp", and {PACKAGE} is not installed', f"it: {INSTALL_HINT}")
        super().__init__(_spoken(section), _URL, resolve=str)
        self._client = _Client(llama_files.files(section, data_dir))

    async def look(self) -> Health:
        """Whether the model is loaded."""
        async with self.asking("GET", "/health") as response:
            await settle(response.content)
            if response.status == _LOADING:
                return Health(ok=False, detail=_BEING_LOADED)
        return await super().look()

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> WorkerError:
        match status:
            case _ if status == _LOADING:
                return WorkerError(
                    WorkerErrorKind.UNAVAILABLE, _BEING_LOADED, retryable=True, retry_after=_AGAIN, status=status
                )
            case _ if status == _NOT_THIS_MODEL:  # such as embeddings of a model that has none
                kind = WorkerErrorKind.BAD_REQUEST
                return status_error(status, headers, body, now=self._now(), secrets=self.secrets, kind=kind)
        return super().refusal(status, headers, body)


class _Client(HttpClient):
    """Calls to the process of `files`, whichever it is at the moment."""

    def __init__(self, files: Files) -> None:
        super().__init__(connect_timeout=5.0, max_connections=_CONNECTIONS, keep_idle=1.0, unix_socket=self._address)
        self._files = files
        self._in_use = llama_files.use(files.uses)
        self._folder: int | None = None

    @contextlib.asynccontextmanager
    async def call(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._in_use is None and not self._closed:
            self._in_use = llama_files.use(self._files.uses)
        try:
            async with super().call(method, url, headers=headers, body=body) as response:
                yield response
        except WorkerError as error:
            if error.kind is WorkerErrorKind.UNREACHABLE:
                raise _why(self._files) from error
            raise

    async def aclose(self) -> None:
        await super().aclose()
        for descriptor in (self._in_use, self._folder):
            if descriptor is not None:
                os.close(descriptor)
        self._in_use = self._folder = None

    def _address(self) -> str:
        """A path that is too long for the kernel is named by way of its folder's descriptor."""
        path = self._files.socket
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            return str(path)
        try:
            self._folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _why(self._files) from error
        return f"/proc/self/fd/{self._folder}/{path.name}"


def _spoken(section: LlamaCppWorker) -> OpenAIWorker:
    """How llama.cpp is spoken to. A connection serves one call: making one costs nothing here, and each that is open
    takes one of the server's threads."""
    model = llama_files.model_name(section)
    return OpenAIWorker(name=section.name, base_url=_URL, model=model, headers={"connection": "close"})


_BEING_LOADED = "the model is being loaded"
_GIVEN_UP = "given up"


def _why(files: Files) -> WorkerError:
    """Nobody listens on the socket."""
    note = llama_files.read(files.note)
    if note is not None and note.state == _GIVEN_UP:
        return WorkerError(WorkerErrorKind.UNAVAILABLE, f"the model cannot be served: {note.reason}")
    message = "the process that serves the model is not there" if note is None else _BEING_LOADED
    return WorkerError(WorkerErrorKind.UNAVAILABLE, message, retryable=True, retry_after=_AGAIN)
