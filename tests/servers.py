"""Model backends for tests: a scripted one that can misbehave at any byte, and a real llama.cpp server."""

import asyncio
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_ROOT = Path(__file__).parents[1]


# Answers as bytes.


def head(status: int = 200, content_type: str = "text/event-stream", **headers: str) -> bytes:
    """An answer's head; underscores in names become hyphens. `content_type=""` leaves it out."""
    lines = [f"HTTP/1.1 {status} X"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def whole(
    body: bytes | dict[str, Any], status: int = 200, content_type: str = "application/json", **headers: str
) -> bytes:
    """An answer with Content-Length."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, content_type, Content_Length=str(len(body)), **headers) + body


def chunk(text: str | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A `chat.completion.chunk` of one choice; `fields` go into its delta."""
    delta = fields if text is None else {"content": text, **fields}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }


def usage_chunk(prompt: int = 3, completion: int = 2) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}


def completion(*texts: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def events(*payloads: dict[str, Any] | bytes, done: bool = True) -> bytes:
    """Payloads as server-sent events, `[DONE]` after them."""
    texts = [payload if isinstance(payload, bytes) else json.dumps(payload).encode() for payload in payloads]
    return b"".join([b"data: %s\n\n" % text for text in [*texts, *([b"[DONE]"] if done else [])]])


def streamed(*payloads: dict[str, Any] | bytes, done: bool = True) -> bytes:
    """A whole streamed answer, an HTTP chunk an event."""
    parts = [http_chunk(events(payload, done=False)) for payload in payloads]
    end = [http_chunk(events())] if done else []
    return head(Transfer_Encoding="chunked") + b"".join([*parts, *end]) + LAST_CHUNK


# The scripted backend.


@dataclass
class Exchange:
    """One request that the backend has received in full, and the means to answer it.

    `gone` is set when the client closes the connection, or the test does.
    """

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # which connection it came over, counted from 1
    _transport: asyncio.Transport
    gone: asyncio.Event

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        """Sends now: in a segment of its own, as far as the kernel allows."""
        self._transport.write(data)
        await asyncio.sleep(0)

    def unsent(self) -> int:
        """Bytes that wait here because the client does not read."""
        return self._transport.get_write_buffer_size()

    def listen(self) -> None:
        """Takes the rest of a request from the socket, where the backend does not by itself."""
        self._transport.resume_reading()

    def close(self) -> None:
        """Ends the connection cleanly (FIN) after what was sent."""
        self._transport.close()

    def reset(self) -> None:
        """Ends the connection with RST; what the client has not read yet may be lost."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def says(data: bytes) -> Script:
    """A script that answers with these bytes and keeps the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(data)

    return script


def says_and_closes(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.close()

    return script


def says_and_resets(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        exchange.reset()

    return script


def says_and_waits(data: bytes) -> Script:
    """Answers with these bytes, then says nothing more until the client leaves."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        await exchange.gone.wait()

    return script


@dataclass
class ScriptedBackend:
    """A server that answers every request as its script says: `async with ScriptedBackend(script) as backend`.

    `script` may be replaced at any time; scripts in `queued` are used up first, one a request. `exchanges` are the
    requests received, oldest first; `connections` counts those ever made, `open` those that are open now, `received`
    all bytes. A script that raises makes leaving the block raise. With `reads` false request bodies are not taken from
    the socket, and a script runs when the head is there.
    """

    script: Script | None = None
    reads: bool = True
    queued: list[Script] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    received: int = 0
    base_url: str = ""

    async def __aenter__(self) -> Self:
        self.tasks: set[asyncio.Future[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._changed = asyncio.Condition()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in list(self._transports):
            transport.abort()
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def until(self, condition: Callable[[Self], bool], limit: float = 5.0) -> None:
        """Waits until `condition(self)` holds; looks whenever a request comes or a connection opens or closes."""
        async with asyncio.timeout(limit), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def _start(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        script = self.queued.pop(0) if self.queued else self.script
        assert script is not None, "a request came and there is no script"
        self._spawn(script(exchange))
        self._notify()

    def _spawn(self, work: Awaitable[None]) -> None:
        self.tasks.add(asyncio.ensure_future(work))

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._spawn(notify())


class _Connection(asyncio.Protocol):
    def __init__(self, backend: ScriptedBackend) -> None:
        self._backend = backend
        self._buffer = b""
        self._unread = False
        self._gone = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._backend.connections += 1
        self._backend.open += 1
        self._number = self._backend.connections
        self._backend._transports.add(transport)
        self._backend._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._backend.open -= 1
        self._backend._transports.discard(self._transport)
        self._backend._notify()

    def data_received(self, data: bytes) -> None:
        self._backend.received += len(data)
        if self._unread:
            return
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            top, _, rest = self._buffer.partition(b"\r\n\r\n")
            first, *lines = top.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            size = int(headers.get("content-length", "0"))
            if self._backend.reads and len(rest) < size:
                return
            method, path, _ = first.split(" ")
            self._buffer = rest[size:]
            if not self._backend.reads:
                self._unread = True
                self._transport.pause_reading()
            body = rest[:size]
            self._backend._start(Exchange(method, path, headers, body, self._number, self._transport, self._gone))


# The real server.


@dataclass(frozen=True)
class TinyLlama:
    """A llama.cpp server in a process of its own. It has four slots."""

    address: str  # http://127.0.0.1:PORT
    pid: int

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=5) as answer:
            return json.load(answer)

    def busy(self) -> int:
        """Slots that generate now."""
        return sum(slot["is_processing"] for slot in self.get("/slots"))


@contextmanager
def tiny_llama(folder: Path) -> Iterator[TinyLlama]:
    """Runs the server; its model is kept in `folder`. Use it as a fixture of session scope."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.tiny_llama", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=_ROOT
        ) as process,
    ):
        try:
            yield _ready(process, folder)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: "subprocess.Popen[str]", folder: Path, limit: float = 30.0) -> TinyLlama:
    end = time.monotonic() + limit
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], limit)[0] or not (address := process.stdout.readline().strip()):
        raise RuntimeError(f"llama.cpp did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
    server = TinyLlama(address, process.pid)
    while True:
        try:
            server.get("/health")
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return server
