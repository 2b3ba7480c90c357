"""A small HTTP client that costs little beside what it measures: prepared requests over raw keep-alive connections."""

import asyncio
import time
from typing import NamedTuple

import msgspec

END_OF_CHUNKS = b"0\r\n\r\n"


def request_bytes(port: int, body: dict[str, object]) -> bytes:
    payload = msgspec.json.encode(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer none\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


class Exchange(NamedTuple):
    """One answer: seconds until its first body byte and until its end."""

    status: int
    first: float
    total: float
    size: int


class Connection:
    """One keep-alive connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))

    async def ask(self, request: bytes) -> Exchange:
        began = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at >= 0:
            length = int(lower[at + 15 : lower.index(b"\r\n", at)])
            body = await self._reader.readexactly(length)
            first = time.perf_counter() - began
            return Exchange(status, first, first, len(body))
        body = await self._reader.read(1 << 16)
        first = time.perf_counter() - began
        tail, size = body[-8:], len(body)
        while not tail.endswith(END_OF_CHUNKS):
            body = await self._reader.read(1 << 16)
            if not body:
                raise ConnectionError("the answer broke off")
            tail = (tail + body)[-8:]
            size += len(body)
        return Exchange(status, first, time.perf_counter() - began, size)

    def close(self) -> None:
        self._writer.close()


async def closed_loop(port: int, request: bytes, *, connections: int, count: int) -> list[Exchange]:
    """`count` requests, `connections` at a time."""
    left = count
    exchanges: list[Exchange] = []

    async def work() -> None:
        nonlocal left
        connection = await Connection.open(port)
        while left > 0:
            left -= 1
            exchanges.append(await connection.ask(request))
        connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return exchanges
