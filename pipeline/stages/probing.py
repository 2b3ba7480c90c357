"""Looks at a worker's replicas again and again, for what calls don't tell: that an idle one is gone, or is back."""

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from pipeline.policy.pool import Pool
from workers.base import Health, ModelWorker

_LONGEST = 5.0  # seconds that a look may take
_SOON = 1.0  # seconds after one that failed, to the next
_LEAST, _SPAN = 0.75, 0.5  # of the interval, the next look is drawn from: shards must not look all at once

_log = structlog.get_logger()


class Prober:
    """`worker` is the name that is logged, `replicas` are those of the pool in its order, `interval` is in seconds on
    average, the first look comes at once. Each replica is looked at by a task of its own, so that one that doesn't
    answer keeps no other waiting. `chance` draws from 0.0 to below 1.0."""

    def __init__(
        self,
        worker: str,
        pool: Pool,
        replicas: Sequence[ModelWorker],
        interval: float,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.worker = worker
        self.replicas = replicas
        self.interval = interval
        self._pool = pool
        self._clock = clock
        self._chance = chance
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Does nothing where it runs."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._attend(index)) for index in range(len(self.replicas))]

    def stop(self) -> None:
        """From now on the pool is told nothing."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _attend(self, index: int) -> None:
        while True:
            health = await _look(self.replicas[index])
            self._tell(index, health)
            pause = self.interval if health.ok else min(self.interval, _SOON)
            await asyncio.sleep(pause * (_LEAST + _SPAN * self._chance()))

    def _tell(self, index: int, health: Health) -> None:
        replica = self._pool.replicas[index]
        before = replica.healthy
        self._pool.looked(index, health.ok, self._clock(), health.slots)
        if before and not replica.healthy:
            _log.warning("replica_down", worker=self.worker, replica=replica.name, detail=health.detail)
        elif replica.healthy and not before:
            _log.info("replica_up", worker=self.worker, replica=replica.name)


async def _look(worker: ModelWorker) -> Health:
    try:
        async with asyncio.timeout(_LONGEST):
            return await worker.health()
    except TimeoutError:
        return Health(ok=False, detail=f"no answer within {_LONGEST:g} s")
    except Exception as error:  # noqa: BLE001 - it may be anyone's class; looking at it must not end here
        return Health(ok=False, detail=f"its look at the backend raised {type(error).__name__}")
