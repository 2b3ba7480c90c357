"""The pipeline of one shard: built, run, changed while it runs, and ended."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from config.access import anonymous_allowed
from config.schema import AnyWorker, Config
from config.secrets import resolve
from pipeline.core.access import Caller
from pipeline.core.messages import AssembleOutput
from pipeline.core.outcomes import Priority, Reason
from pipeline.core.ports import Hooks, Retriever
from pipeline.flow import Flow
from pipeline.ingress import Ingress
from pipeline.policy.access import Access
from pipeline.policy.lane import Lane
from pipeline.policy.leases import Allotter, Own
from pipeline.stages.pump import Backend
from pipeline.wiring import parts
from pipeline.wiring.limits import Limits
from pipeline.wiring.parts import MadeWorker, Renewed
from workers.base import ModelWorker
from workers.tokens import estimate

Clock = Callable[[], float]

SEED = 1  # the same arrivals and the same configuration make the same decisions


class Pipeline:
    """Everything between the door and the sinks. `given` workers stand for configured ones of the same name."""

    def __init__(
        self,
        renewed: Renewed,
        hooks: Hooks,
        clock: Clock,
        limits: Limits,
        *,
        retriever: Retriever | None,
        given: Mapping[str, ModelWorker],
    ) -> None:
        chance = random.Random(SEED).random  # noqa: S311 - spreads callers who come back, guards nothing
        stages = renewed.config.stages
        self.flow = Flow(stages, clock, hooks, retriever=retriever, estimate=estimate, chance=chance)
        self.ingress = Ingress(self.flow, hooks, clock, estimate=estimate, chance=chance)
        self._retriever = retriever
        self._given = given
        self._limits = limits
        self._clock = clock
        self._current: Renewed | None = None
        self.apply(renewed)

    @property
    def workers(self) -> dict[str, ModelWorker]:
        """Those that new calls go to, by name."""
        return {} if self._current is None else {name: made.worker for name, made in self._current.workers.items()}

    def prepare(self, config: Config) -> Renewed:
        """Builds what is new in `config`, and changes nothing. What comes of it is to be given to `apply` or `discard`,
        before another one is prepared. Collections are not looked at: a pipeline keeps those that it was built with.

        Raises `ConfigError` for what only shows when it is built.
        """
        return parts.make(config, self._current, self._given)

    def apply(self, renewed: Renewed) -> None:
        """Puts what was prepared in force, all of it at once; cannot fail. Who is in keeps the route that it came in
        with; whose call has not begun is served by its worker as that is now."""
        config, before, now = renewed.config, self._current, self._clock()
        lanes, backends = {}, {}
        for name, made in renewed.workers.items():
            old = None if before is None else before.workers.get(name)
            lanes[name] = self._lane(made.section, None if old is None else old.section, config, now)
            backends[name] = self._backend(made, old)
        doorways = [parts.doorway(made, renewed, lanes) for made in renewed.routes.values()]
        self.flow.renew(config.stages, lanes, backends)
        self.ingress.renew(doorways, config.server, self._access(config, now))
        self._limits.forget_workers_but(self.flow.lanes.keys())
        self._current = renewed

    async def discard(self, renewed: Renewed) -> None:
        """Closes what was prepared for nothing."""
        for worker in renewed.started:
            await worker.aclose()

    async def start(self) -> None:
        self.flow.start()

    async def drain(self, limit: float) -> None:
        """Sheds new requests, waits up to `limit` seconds for the open ones, and ends the rest as cancelled."""
        self.ingress.draining = True
        idle = asyncio.get_running_loop().create_future()
        self.ingress.when_idle(partial(_resolve, idle))
        try:
            async with asyncio.timeout(limit):
                await idle
        except TimeoutError:
            for ticket in list(self.ingress.tickets):
                self.ingress.cancel(ticket, Reason.SHUTDOWN)

    async def aclose(self) -> None:
        """Ends what is open, stops the stages, closes workers and retriever."""
        for ticket in list(self.ingress.tickets):
            self.ingress.cancel(ticket, Reason.SHUTDOWN)
        await self.flow.stop()
        if self._retriever is not None:
            await self._retriever.aclose()

    def _lane(self, section: AnyWorker, before: AnyWorker | None, config: Config, now: float) -> Lane[AssembleOutput]:
        name, rules = section.name, parts.rules(config.admission)
        another = before is not None and parts.another_model(before, section)
        limits = self._limits.of_worker(section, config.stages.inference, now, anew=another)
        lane = self.flow.lanes.get(name)
        if lane is None:
            return Lane(name, limits.concurrency, rules, requests=limits.requests, tokens=limits.tokens)
        lane.renew(limits.concurrency, rules, requests=limits.requests, tokens=limits.tokens)
        if another:
            lane.forget(now)
        return lane

    def _backend(self, made: MadeWorker, old: MadeWorker | None) -> Backend:
        """The same one for the same worker: it counts that one's calls."""
        limits, high_water = parts.call_limits(made.section), made.section.high_water_deltas
        if old is None or old.worker is not made.worker:
            return Backend(made.worker, limits, high_water)
        backend = self.flow.inference.backends[made.section.name]
        backend.limits, backend.high_water = limits, high_water
        return backend

    def _access(self, config: Config, now: float) -> Access:
        keys = self._limits.of_keys(config.keys, now)
        anonymous = Caller("-", Priority[config.server.anonymous_class.upper()])
        return Access(keys, anonymous if anonymous_allowed(config) else None)


async def build(
    config: Config,
    *,
    hooks: Hooks,
    retriever: Retriever | None = None,
    workers: Mapping[str, ModelWorker] | None = None,
    clock: Clock = time.monotonic,
    allotter: Allotter | None = None,
) -> Pipeline:
    """Builds a pipeline that has not been started. Raises `ConfigError` for what only shows when it is built: a
    template that does not compile, a secret that is not there.

    `retriever` replaces the one that the collections ask for, `workers` replace configured ones of the same name;
    `allotter` says how much of each limit may be used here, by itself all of it.
    """
    given = workers or {}
    renewed = parts.make(config, None, given)
    if retriever is None and config.collections:
        retriever = _retriever(config)
    return Pipeline(renewed, hooks, clock, Limits(allotter or Own()), retriever=retriever, given=given)


def _retriever(config: Config) -> Retriever:
    from pipeline.knowledge.retriever import build_retriever  # noqa: PLC0415 - only where there are collections

    return build_retriever(config.collections, Path(config.server.data_dir) / "knowledge.sock", resolve)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
