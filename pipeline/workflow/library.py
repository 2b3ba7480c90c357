"""Definitions on their way in: read, checked, bundled with what they call, planned. And those that are registered."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from pipeline.core.errors import Overloaded
from pipeline.core.outcomes import Place, Reason
from pipeline.workflow.bundling import bundle, definition_of, planned, resolve
from pipeline.workflow.checking import Examined, Readable, examine
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import DefinitionRefused, Fault, UnknownWorkflow
from pipeline.workflow.journal import Bundle, Journal
from pipeline.workflow.patience import CHECK_S, TookTooLong, until
from pipeline.workflow.plan import Plan
from pipeline.workflow.plans import Plans
from pipeline.workflow.ports import Catalog, Kind, Library
from pipeline.workflow.source import Media, read

T = TypeVar("T")

AT_ONCE = 2  # texts that are checked in threads
WAITING = 32  # that wait for that
_WAIT_S = 10.0
_SMALL = 4096  # bytes of a text that the event loop reads itself
_STEP = 100  # bytes of a step, about


class RegisteredLibrary:
    """What a journal has (`pipeline.workflow.ports.Library`)."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def definition(self, reference: str) -> Definition:
        """`name` (its newest version) or `name@version`. Raises `UnknownWorkflow`, `JournalFailed`."""
        found = await self._journal.workflow(*split(reference))
        if found is None:
            raise UnknownWorkflow(
                "It is not registered here: `headgate workflow register FILE` (or POST /v1/workflows) does that"
            )
        return definition_of(bytes(found.bundle.main))


class Prepared(NamedTuple):
    """Ready to be run."""

    definition: Definition
    bundle: Bundle
    plan: Plan


class Definitions:
    """Reads and checks definitions for where they are to run. Without a `catalog`, what is configured there is not
    looked at."""

    def __init__(self, library: Library, plans: Plans, catalog: Catalog | None, kinds: Mapping[str, Kind]) -> None:
        self._library = library
        self._plans = plans
        self._catalog = catalog
        self._kinds = kinds
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def faults(self, text: bytes, media: Media) -> list[Fault]:
        """All that is wrong with a text; `media` is `json` or `yaml`."""
        return (await self._examined(text, media))[0]

    async def prepared(self, text: bytes, media: Media) -> Prepared:
        """Raises `DefinitionRefused`."""
        faults, made = await self._examined(text, media)
        if made is None:
            raise DefinitionRefused(faults)
        return made

    async def known(self, what: Bundle) -> Prepared:
        """Of a registered version: nothing about it has to be found out again."""
        plan = self._plans.get(what.digest)
        if plan is None:
            size = len(bytes(what.main)) + sum(len(bytes(one)) for one in what.others.values())
            plan = await aside(size, lambda: planned(what))
            self._plans.keep(what.digest, plan)
        return Prepared(plan.definition, what, plan)

    async def _examined(self, text: bytes, media: Media) -> tuple[list[Fault], Prepared | None]:
        if len(text) < _SMALL:
            return await self._examined_now(text, media)
        if self._waiting >= WAITING:
            raise self._busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise self._busy() from None
        finally:
            self._waiting -= 1
        try:
            return await self._examined_now(text, media)
        finally:
            self._places.release()

    def _busy(self) -> Overloaded:
        return Overloaded(
            "Too many workflows are being checked; come back later",
            place=Place.INGRESS.label,
            reason=Reason.QUEUE_FULL,
            retry_after=_WAIT_S,
        )

    async def _examined_now(self, text: bytes, media: Media) -> tuple[list[Fault], Prepared | None]:
        end = time.monotonic() + CHECK_S
        try:
            return await self._examined_by(text, media, end)
        except TookTooLong:
            return [Fault("steps", f"the workflow takes too long to check (more than {CHECK_S:g} s)")], None

    async def _examined_by(self, text: bytes, media: Media, end: float) -> tuple[list[Fault], Prepared | None]:
        source: Readable = await aside(len(text), lambda: read(text, media, kinds=self._kinds))
        definition = source.definition
        if definition is None:
            return list(source.faults), None
        others = await resolve(definition, self._library)
        size = len(text) + sum(len(one.steps) for one in others.values()) * _STEP

        def work() -> tuple[Examined, Bundle | None]:
            with until(end):
                found = examine(source, others=others, catalog=self._catalog, kinds=self._kinds)
            return found, None if found.plan is None else bundle(definition, others)

        found, made = await aside(size, work)
        if found.plan is None or made is None:
            return found.faults, None
        self._plans.keep(made.digest, found.plan)
        return found.faults, Prepared(definition, made, found.plan)


def split(reference: str) -> tuple[str, str | None]:
    """`name@version` as name and version; None where there is none."""
    name, at, version = reference.partition("@")
    return name, version if at else None


async def aside(size: int, work: Callable[[], T]) -> T:
    """In a thread, where it takes long enough for others to notice."""
    return work() if size < _SMALL else await asyncio.to_thread(work)
