"""The HTTP server below every `HttpSpeaker`: asyncio streams and nothing else, so that every byte that leaves is chosen
here and can be the last."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.certificates import Files
from tests.conformance.backends.speaker import (
    KEY,
    Answers,
    BreaksAt,
    Dies,
    Dribbles,
    Endless,
    Ends,
    ErrorInside,
    Fault,
    Health,
    Heard,
    HttpSpeaker,
    Refusal,
    Refuses,
    Rejected,
    Script,
    Stalls,
    until,
)
from workers.base import ModelWorker

_END = b"0\r\n\r\n"


@asynccontextmanager
async def serving(speaker: HttpSpeaker, *, tls: Files | None = None, **fields: Any) -> AsyncIterator["HttpServed"]:
    """A server on a free port, and the worker for it."""
    served = HttpServed(speaker)
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    server = await asyncio.start_server(served.connection, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    scheme, host = ("http", "127.0.0.1") if tls is None else ("https", "localhost")
    served.worker = speaker.build(speaker.section(f"{host}:{port}", scheme=scheme, **{"api_key": KEY, **fields}))
    try:
        yield served
    finally:
        await served.worker.aclose()
        server.close()
        await served.leave()


class HttpServed:
    """What `Served` promises, over sockets."""

    worker: ModelWorker

    def __init__(self, speaker: HttpSpeaker) -> None:
        self.script = Script()
        self.fault: Fault | None = None
        self.health: Health = "well"
        self.heard: list[Heard] = []
        self.rejected: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.sent = 0
        self._speaker = speaker
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wrong: list[Exception] = []

    async def until(self, condition: Callable[[], bool], limit: float = 5.0) -> None:
        await until(condition, limit)

    def script_for(self, heard: Heard) -> Script:
        """What `heard` is answered by: `script` as so many choices as were asked for."""
        return msgspec.structs.replace(self.script, n=heard.n)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._wrong:
            raise self._wrong[0]

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            await self._requests(reader, _Wire(self, reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left, or we did
        except Exception as error:  # noqa: BLE001 - told when the server is left
            self._wrong.append(error)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, wire: "_Wire") -> None:
        while True:
            top = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = top.rstrip().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if method == "GET":
                await self._look(path, wire)
            else:
                self.headers.append(headers)
                await self._call(path, headers, body, wire)

    async def _look(self, path: str, wire: "_Wire") -> None:
        if self.health == "hanging":
            await wire.client_gone()
        known = self._speaker.get(path) if self.health in ("well", "down") else None
        status = 404 if known is None else 200 if self.health == "well" else 503
        await wire.send(whole(known if status == 200 and known else b'{"error": "not now"}', status))

    async def _call(self, path: str, headers: dict[str, str], body: bytes, wire: "_Wire") -> None:
        try:
            heard = self._speaker.hear(path, headers, json.loads(body))
        except (Rejected, ValueError, KeyError, TypeError) as why:
            self.rejected.append(f"{type(why).__name__}: {why}")
            await wire.send(whole(json.dumps({"error": {"message": f"rejected: {why}"}}).encode(), 400))
            return
        self.heard.append(heard)
        await self._answer(heard, wire)

    async def _answer(self, heard: Heard, wire: "_Wire") -> None:
        speaker, script = self._speaker, self.script_for(heard)
        kind = speaker.content_type if heard.stream else "application/json"
        match self.fault:
            case Refuses() as fault:
                await wire.send(refused(chosen(speaker, fault), fault.retry_after))
                return
            case Answers(body, status, content_type):
                await wire.send(whole(body, status, kind if content_type is None else content_type))
                return
            case Endless():
                await wire.send(head(200, kind))
                while True:
                    for piece in speaker.stream(script)[:-1]:
                        await wire.send(chunk(piece))
            case _:
                pass
        pieces = speaker.stream(script) if heard.stream else [speaker.whole(script)]
        await self._pieces(pieces, kind, wire, chunked=heard.stream)

    async def _pieces(self, pieces: list[bytes], kind: str, wire: "_Wire", *, chunked: bool) -> None:
        """An answer in pieces, with what goes wrong in it."""
        complete = [head(200, kind), *map(chunk, pieces), _END] if chunked else [whole(pieces[0], 200, kind)]
        match self.fault:
            case None:
                for part in complete:
                    await wire.send(part)
            case Dribbles(size):
                answer = b"".join(complete)
                for at in range(0, len(answer), size):
                    await wire.send(answer[at : at + size])
            case BreaksAt(byte, reset):
                await wire.send(b"".join(complete)[:byte])
                wire.end(reset=reset)
            case Ends(after):
                await wire.send(b"".join(complete[: after + 1]) + _END)
            case ErrorInside(error, after, words):
                said = self._speaker.in_band(error, words)
                assert said is not None, f"{self._speaker.kind} has no errors within a stream"
                await wire.send(b"".join([*complete[: after + 1], chunk(said), _END]))
            case Stalls(after):
                await wire.send(b"".join(complete[: after + 1 if after else 0]))
                await wire.client_gone()
            case Dies(after):
                await wire.send(b"".join(complete[: after + 1 if after else 0]))
                wire.end(reset=True)
            case fault:
                raise AssertionError(fault)


class _Wire:
    """One connection's way out."""

    def __init__(self, served: HttpServed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served = served
        self._reader = reader
        self._writer = writer
        if writer.get_extra_info("sslcontext") is None:
            writer.transport.set_write_buffer_limits(0)  # `drain` waits until the kernel has it

    async def send(self, data: bytes) -> None:
        """Sends now, in a segment of its own as far as the kernel allows; waits while the client does not read."""
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)
        self._served.sent += len(data)

    def end(self, *, reset: bool) -> None:
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()
        raise ConnectionResetError

    async def client_gone(self) -> None:
        """Waits until the client has closed its side."""
        await self._reader.read()
        raise ConnectionResetError


def chosen(speaker: HttpSpeaker, fault: Refuses) -> Refusal:
    return [refusal for refusal in speaker.refusals(fault.words) if refusal.kind is fault.kind][fault.which]


def refused(refusal: Refusal, retry_after: int | None) -> bytes:
    headers = dict(refusal.headers)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return whole(refusal.body, refusal.status, refusal.content_type, **headers)


def head(status: int, content_type: str, **headers: str) -> bytes:
    """An answer's head; chunked where there is no Content-Length."""
    given = {"Content-Type": content_type} if content_type else {}
    if "Content-Length" not in headers:
        given["Transfer-Encoding"] = "chunked"
    lines = [f"{name}: {value}" for name, value in {**given, **headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode()


def whole(body: bytes, status: int = 200, content_type: str = "application/json", **headers: str) -> bytes:
    return head(status, content_type, **{"Content-Length": str(len(body)), **headers}) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
