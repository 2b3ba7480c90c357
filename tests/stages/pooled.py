"""Workers with replicas that do what a test says, in a pipeline in process."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config.schema import AnyWorker
from pipeline.core.outcomes import Reason
from pipeline.core.ticket import Ticket
from pipeline.wiring import Pipeline
from tests.flows import Books, config, running
from workers import registry
from workers.base import Delta, DeltaBatch, GenerationRequest, Health, Usage
from workers.errors import WorkerError, WorkerErrorKind

Step = Exception | DeltaBatch | asyncio.Event | Callable[[], Awaitable[None]] | None


def answered(text: str) -> DeltaBatch:
    return DeltaBatch((Delta(text, finish_reason="stop"),), Usage(3, 1))


def failure(kind: WorkerErrorKind = WorkerErrorKind.UNAVAILABLE, **fields: Any) -> WorkerError:
    return WorkerError(kind, "it is not well", **{"retryable": True, **fields})


class Replica:
    """What each call in turn is to meet is in `script`, a list of steps a call; later ones get `usual`. An event is
    waited for, a batch is given out; a call without a batch gets the replica's name. `came` are the requests."""

    def __init__(self, section: AnyWorker, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.name = f"{section.name}{number}"
        self.script: deque[list[Step]] = deque()
        self.usual: list[Step] = []
        self.came: list[GenerationRequest] = []
        self.at: list[float] = []
        self.running = 0
        self.closed = False
        self._loop = loop

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        assert not self.closed, "a call to a worker that was closed"
        self.came.append(request)
        self.at.append(self._loop.time())
        self.running += 1
        said = False
        try:
            for step in self.script.popleft() if self.script else self.usual:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, DeltaBatch):
                    said = True
                    yield step
                elif step is not None:
                    await step()
            if not said:
                yield answered(self.name)
        finally:
            self.running -= 1

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        assert not self.running, "closed while a call is under way"
        self.closed = True


class Pools:
    """`built` are the replicas of each worker, the newest ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: dict[str, list[Replica]] = {}
        self.ever: list[Replica] = []
        monkeypatch.setattr(registry, "build", self._build)

    def __getitem__(self, name: str) -> list[Replica]:
        return self.built[name]

    def _build(self, section: AnyWorker, *, replica: int = 0, **_: Any) -> Replica:
        built = Replica(section, replica, asyncio.get_running_loop())
        self.ever.append(built)
        if replica == 0:
            self.built[section.name] = []
        self.built[section.name].append(built)
        return built


def worker(name: str = "a", replicas: int = 1, **keys: Any) -> dict[str, Any]:
    """Without active looks, and as it is otherwise usual."""
    urls = [f"http://127.0.0.1:{number + 1}/v1" for number in range(replicas)]
    usual = {
        "health_interval_ms": 0,
        "retry_base_ms": 1,
        "slow_start_ms": 0,
        "breaker_failures": 0,
        "breaker_rate": 0.0,
    }
    return {"name": name, "kind": "openai", "model": "m", "replicas": urls, **usual, **keys}


def sections(*workers: dict[str, Any], **route: Any) -> dict[str, Any]:
    """One route `echo` to the first of them."""
    return {"workers": list(workers), "routes": [{"name": "echo", "worker": workers[0]["name"], **route}]}


@asynccontextmanager
async def pooled(*workers: dict[str, Any], more: Any = None, **route: Any) -> AsyncIterator[tuple[Pipeline, Books]]:
    """Fails when anything is booked at the end."""
    async with running(config(**{**sections(*workers, **route), **(more or {})})) as (pipeline, books):
        yield pipeline, books
        await until(lambda: not any(backend.calls for backend in pipeline.flow.inference.backends.values()))
        assert_nothing_booked(pipeline)


def assert_nothing_booked(pipeline: Pipeline) -> None:
    for name, backend in pipeline.flow.inference.backends.items():
        assert not backend.waiting, name
        assert not backend.calls, name
        assert [replica.inflight for replica in backend.pool.replicas] == [0] * len(backend.pool.replicas), name


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def reason(ticket: Ticket) -> Reason:
    assert ticket.ending is not None
    return ticket.ending.reason
