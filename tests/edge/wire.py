"""HTTP by hand, for what no client library would send or let through."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

LIMIT = 5.0  # seconds in which whatever a test waits for must come


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json["error"]["code"]
        return code

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Name and data of each event; `message` where it has no name, the text where it is no JSON."""
        return events(self.body)


def events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for frame in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.split("\n") if line and not line.startswith(":"))
        if fields:
            text = fields["data"]
            found.append((fields.get("event", "message"), text if text == "[DONE]" else json.loads(text)))
    return found


class Wire:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """Status and headers of the next answer."""
        async with asyncio.timeout(LIMIT):
            top = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = top.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def answer(self) -> Answer:
        """The next answer as a whole."""
        head = await self.head()
        body = b""
        async with asyncio.timeout(LIMIT):
            if head.headers.get("transfer-encoding") == "chunked":
                while chunk := await self.chunk():
                    body += chunk
            elif "content-length" in head.headers:
                body = await self.reader.readexactly(int(head.headers["content-length"]))
        return head._replace(body=body)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty for the last."""
        async with asyncio.timeout(LIMIT):
            size = int(await self.reader.readline(), 16)
            chunk = await self.reader.readexactly(size + 2)
        return chunk[:-2]

    async def closed(self, limit: float = LIMIT) -> bytes:
        """Waits until the server closes; what it still sent. A reset counts as closing."""
        try:
            async with asyncio.timeout(limit):
                return await self.reader.read(-1)
        except ConnectionError:
            return b""

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """Leaves without a goodbye."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    """`receive_buffer` bytes: a client that does not read is soon noticed."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    limit = 2**16 if receive_buffer is None else receive_buffer
    reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


def post(
    body: bytes | dict[str, Any], path: str = "/v1/chat/completions", *lines: str, length: int | None = None
) -> bytes:
    """A request's bytes; `lines` are further header lines."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        f"POST {path} HTTP/1.1",
        "Host: test",
        "Content-Type: application/json",
        f"Content-Length: {len(content) if length is None else length}",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode() + content


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def chat(text: str = "hello there", *, model: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def ask(port: int, request: bytes) -> Answer:
    """One request over a connection of its own."""
    async with connected(port) as wire:
        await wire.send(request)
        return await wire.answer()
