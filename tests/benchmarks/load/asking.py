"""Asking the scripted backend of `tests.servers` with the generator's client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from benchmarks.load.answer import Answer
from benchmarks.load.scenario import Leave
from benchmarks.load.wire import Wire
from tests.servers import Script, ScriptedBackend, chunk, completion, head, streamed, usage_chunk, whole

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
OK = whole(completion("hello"))
THREE = [chunk(role="assistant"), chunk("a"), chunk("b"), chunk("c"), chunk(finish="stop"), usage_chunk()]
STREAM = streamed(*THREE)  # three tokens
STREAM_HEAD = head(Transfer_Encoding="chunked")
REFUSAL = {"error": {"message": "the queue is full", "type": "server_error", "code": "overloaded"}}


@asynccontextmanager
async def wired(url: str, **options: object) -> AsyncIterator[Wire]:
    wire = Wire(url, **options)
    try:
        yield wire
    finally:
        await wire.aclose()
        assert wire.open_connections == 0


async def ask(
    wire: Wire,
    *,
    stream: bool = False,
    patience: float | None = 5.0,
    leave: Leave | None = None,
    leave_in: float | None = None,
    headers: bytes = b"",
    body: bytes = BODY,
) -> Answer:
    """`patience` and `leave_in`: seconds from now."""
    now = monotonic()
    return await wire.ask(
        body,
        headers=headers,
        stream=stream,
        deadline=None if patience is None else now + patience,
        leave=leave,
        leave_at=None if leave_in is None else now + leave_in,
    )


async def answer_to(script: Script, *, stream: bool = False, patience: float = 5.0, **options: object) -> Answer:
    """What a client makes of a backend that answers so."""
    async with ScriptedBackend(script) as backend, wired(backend.base_url, **options) as wire:
        return await ask(wire, stream=stream, patience=patience)
