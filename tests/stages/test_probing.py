"""Looks at replicas: real servers that go and come, and classes of anyone's that look badly."""

import asyncio
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from pipeline.policy.breaker import BreakerRules
from pipeline.policy.pool import Pool, PoolRules
from pipeline.stages import probing
from pipeline.stages.probing import Prober
from tests.servers import Exchange, ScriptedBackend, whole
from tests.workers.helpers import openai_section, openai_worker
from workers.base import Health, ModelWorker
from workers.echo import Echo

RULES = PoolRules(affinity=True, concurrency=None, slow_start=0.0, breaker=BreakerRules())
MODELS = whole({"object": "list", "data": [{"id": "m"}]})


class Looking:
    """Two replicas that are looked at every few milliseconds. `changed` waits until the pool is as it should be."""

    def __init__(self, replicas: list[ModelWorker], interval: float = 0.01) -> None:
        self.pool = Pool(["one:8000", "two:8000"], RULES)
        self.pool.on_change = self._tell
        self.prober = Prober("w", self.pool, replicas, interval, clock=time.monotonic, chance=lambda: 0.5)
        self._changed = asyncio.Event()

    def _tell(self) -> None:
        self._changed.set()

    @property
    def healthy(self) -> list[bool]:
        return [replica.healthy for replica in self.pool.replicas]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Answers:
    """A server's script: what it says to each look, `seen` times so far."""

    def __init__(self) -> None:
        self.answer = MODELS
        self.seen = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.seen += exchange.path.endswith("/models")
        found = self.answer if exchange.path.endswith("/models") else whole({}, status=404)
        await exchange.send(found)


async def test_a_server_that_fails_is_taken_out_and_comes_back_and_each_is_told_once():
    scripts = Answers(), Answers()
    async with ScriptedBackend(scripts[0]) as one, ScriptedBackend(scripts[1]) as two:
        workers = [openai_worker(openai_section(backend.base_url)) for backend in (one, two)]
        looking = Looking(list(workers))
        with capture_logs() as logs:
            looking.prober.start()
            looking.prober.start()  # nothing more
            scripts[1].answer = whole({"error": "out of memory"}, status=500)
            await looking.until(lambda: looking.healthy == [True, False])
            seen = scripts[1].seen
            while scripts[1].seen < seen + 3:
                await asyncio.sleep(0.005)
            scripts[1].answer = MODELS
            await looking.until(lambda: looking.healthy == [True, True])
            looking.prober.stop()
        for worker in workers:
            await worker.aclose()
    assert [(line["event"], line["log_level"], line["worker"], line["replica"]) for line in logs] == [
        ("replica_down", "warning", "w", "two:8000"),
        ("replica_up", "info", "w", "two:8000"),
    ]
    assert logs[0]["detail"] == "GET /models answered 500"


class Odd(Echo):
    """Somebody's class: its look raises, or never ends."""

    def __init__(self, look: Callable[[], Health] | None = None) -> None:
        self._look = look

    async def health(self) -> Health:
        if self._look is None:
            await asyncio.Event().wait()
        assert self._look is not None
        return self._look()


def broken() -> Health:
    raise RuntimeError("the prompt was: secret")


async def test_a_look_that_raises_or_does_not_end_is_a_failed_one(monkeypatch):
    monkeypatch.setattr(probing, "_LONGEST", 0.05)
    looking = Looking([Odd(broken), Odd(lambda: Health(ok=True, slots=4))])
    with capture_logs() as logs:
        looking.prober.start()
        await looking.until(lambda: looking.healthy == [False, True])
        looking.prober.stop()
    assert looking.pool.replicas[1].slots == 4
    assert [line["detail"] for line in logs] == ["its look at the backend raised RuntimeError"]
    looking = Looking([Odd(), Odd(lambda: Health(ok=True))])
    with capture_logs() as logs:
        looking.prober.start()
        await looking.until(lambda: looking.healthy == [False, True])
        looking.prober.stop()
    assert "no answer within" in logs[0]["detail"]


async def test_one_that_does_not_answer_keeps_no_other_waiting():
    seen = 0

    def well() -> Health:
        nonlocal seen
        seen += 1
        if seen == 5:
            enough.set()
        return Health(ok=True)

    enough = asyncio.Event()
    looking = Looking([Odd(), Odd(well)], interval=0.001)
    looking.prober.start()
    async with asyncio.timeout(5):
        await enough.wait()
    looking.prober.stop()
    assert looking.healthy == [True, True]  # nothing is known of the first


async def test_after_stop_the_pool_is_told_nothing():
    gate, asked = asyncio.Event(), asyncio.Event()

    class Slow(Echo):
        def __init__(self) -> None: ...

        async def health(self) -> Health:
            asked.set()
            await gate.wait()
            return Health(ok=False)

    looking = Looking([Slow(), Slow()])
    looking.prober.start()
    await asked.wait()
    gate.set()
    looking.prober.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert looking.healthy == [True, True]


@pytest.mark.parametrize("drawn", [0.0, 0.5, 0.999])
@pytest.mark.parametrize(("well", "interval"), [(True, 10.0), (False, 1.0)])
async def test_looks_are_about_an_interval_apart_and_a_failed_one_is_followed_soon(monkeypatch, drawn, well, interval):
    slept: list[float] = []
    done = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        done.set()
        await asyncio.Event().wait()

    pool = Pool(["one"], RULES)
    replicas = [Odd(lambda: Health(ok=well))]
    prober = Prober("w", pool, replicas, 10.0, clock=time.monotonic, chance=lambda: drawn)
    with monkeypatch.context() as patched:
        patched.setattr(probing.asyncio, "sleep", sleep)
        prober.start()
        await done.wait()
    prober.stop()
    assert slept == [pytest.approx(interval * (0.75 + 0.5 * drawn))]
