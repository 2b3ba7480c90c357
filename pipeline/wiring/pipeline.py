"""The pipeline of one shard: built, run, changed while it runs, and ended."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from config.access import anonymous_allowed
from config.schema import AnyWorker, Config, EchoWorker, ExtractiveWorker
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
from pipeline.policy.pool import Pool
from pipeline.stages.backend import Backend
from pipeline.stages.probing import Prober
from pipeline.wiring import parts
from pipeline.wiring.circuits import CircuitLog
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
        shards: int,
    ) -> None:
        chance = random.Random(SEED).random  # noqa: S311 - spreads callers who come back, guards nothing
        stages = renewed.config.stages
        self.flow = Flow(stages, clock, hooks, retriever=retriever, estimate=estimate, chance=chance)
        self.ingress = Ingress(self.flow, hooks, clock, estimate=estimate, chance=chance)
        self._retriever = retriever
        self._given = given
        self._limits = limits
        self._clock = clock
        self._shards = shards
        self._probers: dict[str, Prober] = {}
        self._running = False
        self._current: Renewed | None = None
        self.apply(renewed)

    @property
    def workers(self) -> dict[str, ModelWorker]:
        """Those that new calls go to, by name."""
        return {} if self._current is None else {name: made.replicas[0] for name, made in self._current.workers.items()}

    @property
    def unwatched(self) -> dict[str, ModelWorker]:
        """Those of them that are not looked at again and again."""
        return {name: worker for name, worker in self.workers.items() if name not in self._probers}

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
            backends[name] = self._backend(made, old, lanes[name], anew=self._anew(made, old))
        for name in self._probers.keys() - renewed.workers.keys():
            self._probers.pop(name).stop()
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
        self._running = True
        for prober in self._probers.values():
            prober.start()

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
        self._running = False
        for prober in self._probers.values():
            prober.stop()
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

    def _backend(self, made: MadeWorker, old: MadeWorker | None, lane: Lane[AssembleOutput], *, anew: bool) -> Backend:
        """The same one for the same worker: it counts that one's calls. What is known of its replicas stays, unless it
        is another model."""
        section, before = made.section, self.flow.inference.backends.get(made.section.name)
        rules = parts.pool_rules(section, self._shards)
        same = old is not None and old.replicas is made.replicas
        if before is None or (anew and not same):
            pool = Pool(names(made), rules)
            backend = Backend(made.replicas, pool, parts.call_limits(section), section.high_water_deltas)
        else:
            pool = before.pool
            pool.renew(names(made), rules)
            backend = before
            if not same:
                backend = Backend(made.replicas, pool, before.limits, before.high_water, before=before)
        backend.limits, backend.high_water = parts.call_limits(section), section.high_water_deltas
        backend.retrying = parts.retrying(section)
        backend.budget.renew(section.retry_budget)
        self._attend(backend, lane, section)
        return backend

    def _attend(self, backend: Backend, lane: Lane[AssembleOutput], section: AnyWorker) -> None:
        """Lets the lane know of what its replicas have room for, and looks at them."""
        pool, clock = backend.pool, self._clock

        def changed() -> None:
            lane.refit(clock())
            backend.changed()

        lane.pool = pool
        pool.on_change = changed
        pool.on_down = lambda replica: backend.down(replica, clock())
        if not isinstance(pool.on_circuit, CircuitLog):  # it knows which are open
            pool.on_circuit = CircuitLog(section.name, clock)
        changed()
        self._probe(backend, section)

    def _probe(self, backend: Backend, section: AnyWorker) -> None:
        """Each replica is looked at, once and again: anew where something has changed about it."""
        name, interval = section.name, section.health_interval_ms / 1000
        wanted = (backend.replicas, interval)
        known = self._probers.get(name)
        if known is not None:
            if (known.replicas, known.interval) == wanted:
                return
            self._probers.pop(name).stop()
        if interval and not isinstance(section, EchoWorker | ExtractiveWorker):
            self._probers[name] = Prober(name, backend.pool, backend.replicas, interval, clock=self._clock)
            if self._running:
                self._probers[name].start()

    def _anew(self, made: MadeWorker, old: MadeWorker | None) -> bool:
        return old is None or parts.another_model(old.section, made.section)

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
    shards: int = 1,
) -> Pipeline:
    """Builds a pipeline that has not been started. Raises `ConfigError` for what only shows when it is built: a
    template that does not compile, a secret that is not there.

    `retriever` replaces the one that the collections ask for, `workers` replace configured ones of the same name;
    `allotter` says how much of each limit may be used here, by itself all of it; `shards` are there that each take
    their part of what a replica has room for.
    """
    given = workers or {}
    renewed = parts.make(config, None, given)
    if retriever is None and config.collections:
        retriever = _retriever(config)
    return Pipeline(renewed, hooks, clock, Limits(allotter or Own()), retriever=retriever, given=given, shards=shards)


def _retriever(config: Config) -> Retriever:
    from pipeline.knowledge.retriever import build_retriever  # noqa: PLC0415 - only where there are collections

    return build_retriever(config.collections, Path(config.server.data_dir) / "knowledge.sock", resolve)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def names(made: MadeWorker) -> list[str]:
    """Of the replicas; of workers that were given, there is one."""
    known = made.section.replica_names
    return known if len(known) == len(made.replicas) else [str(number) for number in range(len(made.replicas))]
