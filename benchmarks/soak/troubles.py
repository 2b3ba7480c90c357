"""What is done to the daemon while it works: one thing after another, drawn by chance, each with what must follow."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import aiohttp
import msgspec

from benchmarks.shards.changes import replace_file
from benchmarks.shards.daemon import NotReached, in_force, models
from benchmarks.soak.places import Backend, Daemon
from benchmarks.soak.settings import Settings
from benchmarks.soak.verdict import BACKEND, KNOWLEDGE, LOST, Trouble

PAUSE = 5.0  # seconds between two of them in the mean
_READY_WITHIN = 15.0  # a shard; the aim is 2 s, on a machine with nothing else to do
_KNOWLEDGE_WITHIN = 30.0
_REPLACED_WITHIN = 120.0
_UNCHANGED_FOR = 0.5  # seconds that a broken file is watched to change nothing
_POLL = 0.05


class Happened(msgspec.Struct):
    """`at` in seconds of the run; `took` until it was mended, None where there is nothing to mend."""

    at: float
    what: str
    detail: str
    took: float | None


class _Kind(NamedTuple):
    weight: float
    do: Callable[[], Coroutine[Any, Any, tuple[str, float | None]]]


class Troubles:
    """`events` is what was done, `excuses` what clients may blame on it, `problems` what came out wrong."""

    def __init__(
        self, daemon: Daemon, backend: Backend, settings: Settings, random: Random, only: Sequence[str] = ()
    ) -> None:
        self.events: list[Happened] = []
        self.excuses: list[Trouble] = []
        self.problems: list[str] = []
        self.began = time.monotonic()
        self._daemon = daemon
        self._backend = backend
        self._settings = settings
        self._random = random
        self._only = only

    @property
    def counts(self) -> Counter[str]:
        return Counter(event.what for event in self.events)

    async def run(self, until: float, calm_from: float) -> None:
        """Until that moment of the monotonic clock. From `calm_from` on only what leaves processes alone: so that some
        get old enough to be judged."""
        while (now := time.monotonic()) < until:
            kinds = {name: kind for name, kind in self._kinds().items() if not self._only or name in self._only}
            if now >= calm_from:
                kinds = {name: kind for name, kind in kinds.items() if name in CALM}
            pause = self._random.expovariate(1 / PAUSE)
            await asyncio.sleep(min(pause, until - now))
            if kinds and time.monotonic() < until:
                (name,) = self._random.choices(list(kinds), [kind.weight for kind in kinds.values()])
                await self._one(name, kinds[name])

    async def _one(self, name: str, kind: _Kind) -> None:
        at = time.monotonic() - self.began
        try:
            detail, took = await kind.do()
        except (NotReached, aiohttp.ClientError, TimeoutError) as error:
            detail, took = str(error) or type(error).__name__, None
            self.problems.append(f"{name} at {at:.0f} s: {detail}")
        self.events.append(Happened(at, name, detail, took))

    def _kinds(self) -> dict[str, _Kind]:
        return {
            "kill": _Kind(4, self._kill),
            "reload": _Kind(5, self._reload),
            "broken": _Kind(2, self._broken),
            "replace": _Kind(1, self._replace),
            "knowledge": _Kind(1, self._knowledge),
            "backend": _Kind(2, self._restart_backend),
        }

    async def _kill(self) -> tuple[str, float | None]:
        shards = [name for name in await self._daemon.processes() if name.startswith("shard ")]
        if not shards:
            raise NotReached("no shard is ready that could be killed")
        name = self._random.choice(shards)
        took = await self._killed(name, LOST, _READY_WITHIN)
        return name, took

    async def _knowledge(self) -> tuple[str, float | None]:
        return "", await self._killed("knowledge", KNOWLEDGE, _KNOWLEDGE_WITHIN)

    async def _killed(self, name: str, what: str, limit: float) -> float:
        """Seconds until there was a new one. Raises NotReached."""
        before = (await self._daemon.processes()).get(name)
        if before is None:
            raise NotReached(f"there is no {name} that is ready")
        with self._excuse(what):
            with suppress(ProcessLookupError):
                os.kill(before, signal.SIGKILL)
            return await self._until(lambda now: now.get(name, before) != before, limit, f"no new {name} is ready")

    async def _reload(self) -> tuple[str, float | None]:
        detail = self._settings.change()
        replace_file(self._daemon.config, self._settings.text())
        began = time.monotonic()
        self._daemon.signal(signal.SIGHUP)
        await in_force(self._daemon.port, self._settings.routes, limit=10.0, key=self._settings.key)
        return detail, time.monotonic() - began

    async def _broken(self) -> tuple[str, float | None]:
        what, text = self._settings.broken()
        replace_file(self._daemon.config, text)
        self._daemon.signal(signal.SIGHUP)
        until = time.monotonic() + _UNCHANGED_FOR
        while time.monotonic() < until:
            found = await models(self._daemon.port, self._settings.key)
            if found != set(self._settings.routes):
                raise NotReached(f"a broken file ({what}) has changed the routes to {', '.join(sorted(found))}")
            await asyncio.sleep(_POLL)
        replace_file(self._daemon.config, self._settings.text())
        return what, None

    async def _replace(self) -> tuple[str, float | None]:
        before = await self._shards()
        self._daemon.signal(signal.SIGUSR2)
        took = await self._until(
            lambda now: (
                len(now) >= len(before) and not set(before.values()) & {p for n, p in now.items() if n in before}
            ),
            _REPLACED_WITHIN,
            "the shards were not replaced",
            shards_only=True,
        )
        return "", took

    async def _restart_backend(self) -> tuple[str, float | None]:
        began = time.monotonic()
        with self._excuse(BACKEND):
            await self._backend.kill()
            await asyncio.sleep(self._random.uniform(0.0, 1.5))
            await self._backend.start()
        return "", time.monotonic() - began

    async def _shards(self) -> dict[str, int]:
        return {name: pid for name, pid in (await self._daemon.processes()).items() if name.startswith("shard ")}

    async def _until(
        self, wanted: Callable[[dict[str, int]], bool], limit: float, what: str, *, shards_only: bool = False
    ) -> float:
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if wanted(await (self._shards() if shards_only else self._daemon.processes())):
                return time.monotonic() - began
            await asyncio.sleep(_POLL)
        raise NotReached(f"{what} within {limit:g} s")

    def _excuse(self, what: str) -> "_Excuse":
        return _Excuse(self.excuses, what)


class _Excuse:
    """Notes a trouble for as long as the context lasts."""

    def __init__(self, excuses: list[Trouble], what: str) -> None:
        self._excuses = excuses
        self._place = len(excuses)
        excuses.append(Trouble(what, time.monotonic(), None))

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._excuses[self._place] = self._excuses[self._place]._replace(mended=time.monotonic())


KINDS = ("kill", "reload", "broken", "replace", "knowledge", "backend")
CALM = frozenset({"reload", "broken"})
