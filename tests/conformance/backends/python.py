"""A class of somebody's own, as docs/how-to/write-a-worker.md says that they are written."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from config.schema import AnyWorker
from tests.certificates import Files
from tests.conformance.backends.own_words import batches_of, heard_of
from tests.conformance.backends.speaker import (
    SECRET,
    Endless,
    ErrorInside,
    Fault,
    Feature,
    Finish,
    Health,
    Heard,
    Refuses,
    Rejected,
    Script,
    Served,
    Stalls,
    built,
    given,
    until,
)
from workers.base import DeltaBatch, GenerationRequest, ModelWorker
from workers.errors import WorkerError
from workers.errors import WorkerErrorKind as Kind

_LATER = {Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.TIMEOUT}
_served: dict[int, "PythonServed"] = {}


class PythonServed:
    """What `Served` promises; the backend is an object in this process."""

    worker: ModelWorker

    def __init__(self) -> None:
        self.script = Script()
        self.fault: Fault | None = None
        self.health: Health = "well"
        self.heard: list[Heard] = []
        self.rejected: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.sent = 0

    async def until(self, condition: Callable[[], bool], limit: float = 5.0) -> None:
        await until(condition, limit)


class Scripted:
    """The class: what the section of the worker names."""

    several_choices = True

    def __init__(self, number: int) -> None:
        self._served = _served[number]

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        served = self._served
        served.open += 1
        try:
            async for batch in self._answer(request):
                served.sent += len(json.dumps([delta.text for delta in batch.deltas]))
                yield batch
        finally:
            served.open -= 1

    async def health(self) -> bool:
        return self._served.health == "well"

    async def _answer(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        served = self._served
        try:
            heard = heard_of(request)
        except Rejected as why:
            served.rejected.append(str(why))
            raise WorkerError(Kind.BAD_REQUEST, f"rejected: {why}") from why
        served.heard.append(heard)
        batches = batches_of(msgspec.structs.replace(served.script, n=heard.n))
        await asyncio.sleep(0)
        match served.fault:
            case Refuses(kind, words, _, retry_after):
                raise _error(kind, words, retry_after)
            case Endless():
                while True:
                    for batch in batches[:-2]:
                        await asyncio.sleep(0)
                        yield batch
            case ErrorInside(kind, after, words):
                for batch in batches[:after]:
                    yield batch
                raise _error(kind, words)
            case Stalls(after):
                for batch in batches[:after]:
                    yield batch
                await asyncio.Event().wait()
            case None:
                for batch in batches:
                    yield batch
            case fault:
                raise AssertionError(fault)


def _error(kind: Kind, words: str, retry_after: float | None = None) -> WorkerError:
    """Nobody but its author knows which of its words are secret."""
    return WorkerError(kind, words.replace(SECRET, "…"), retryable=kind in _LATER, retry_after=retry_after)


class PythonSpeaker:
    kind = "python"
    http = False
    refuses: ClassVar[frozenset[Feature]] = frozenset()
    ignores: ClassVar[frozenset[Feature]] = frozenset()
    # In this process there is no connection, and nobody to show a secret to; the model's name is the class's business;
    # a generator that ends has said all that it wanted to say.
    lacks: ClassVar[frozenset[Feature]] = frozenset({"credentials", "network", "tls", "renamed", "ends", "dies"})
    never: ClassVar[frozenset[Kind]] = frozenset()
    reasons: ClassVar[Mapping[str, Finish]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
    }

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        raise AssertionError("it has no address")

    @asynccontextmanager
    async def serving(self, folder: Path, *, tls: Files | None = None, **fields: Any) -> AsyncIterator[Served]:
        served = PythonServed()
        number = id(served)
        _served[number] = served
        options = {"class": f"{__name__}:Scripted", "options": {"number": number}}
        served.worker = built(given("python", api_key=None, **options, **fields))
        try:
            yield served
        finally:
            await served.worker.aclose()
            del _served[number]


SPEAKER = PythonSpeaker()
