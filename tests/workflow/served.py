"""Workflows of one process, whole: a real engine, journal and pipeline, behind the service that everybody asks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from config.schema import Config
from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.adapters.outside.real import RealOutside
from pipeline.wiring import Pipeline
from pipeline.wiring.catalog import ConfigCatalog
from pipeline.workflow.engine import Engine
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.events import Hub
from pipeline.workflow.journal import Journal
from pipeline.workflow.library import Definitions, RegisteredLibrary
from pipeline.workflow.plans import Plans
from pipeline.workflow.ports import Services
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.service import Service
from pipeline.workflow.states import RunState
from pipeline.workflow.views import RunView, StartRun
from tests.flows import config, running
from workers.base import Passage

GREET = """\
name: greet
description: Says hello.
inputs:
  who: {type: string}
steps:
  - id: greeting
    type: transform
    operation: template
    template: "Hello {{ inputs.who }}"
  - id: loud
    type: transform
    operation: template
    template: "{{ steps.greeting.value }}!"
outputs:
  text: "{{ steps.loud.value }}"
"""

ASK = """\
name: ask
inputs:
  question: {type: string}
steps:
  - id: answer
    type: llm
    route: echo
    prompt: "{{ inputs.question }}"
outputs:
  text: "{{ steps.answer.text }}"
"""

APPROVE = """\
name: approve
steps:
  - id: decision
    type: wait
    event: decided
  - id: result
    type: transform
    operation: template
    template: "It was {{ steps.decision.value }}"
outputs:
  result: "{{ steps.result.value }}"
"""


class NoKnowledge:
    """There are no collections."""

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        raise StepFailed("unknown_collection", f"there is no collection {collection!r} ({query!r}, {limit})")

    async def embed(self, collection: str, text: str) -> list[float]:
        raise StepFailed("unknown_collection", f"there is no collection {collection!r} ({text!r})")

    async def upsert(self, collection: str, source: str, title: str, text: str) -> int:
        raise StepFailed("unknown_collection", f"there is no collection {collection!r} ({source}, {title}, {text})")


class Served(NamedTuple):
    service: Service
    engine: Engine
    journal: Journal
    hub: Hub
    pipeline: Pipeline
    conf: Config

    async def start(self, text: str, inputs: dict[str, Any] | None = None, caller: str = "-", **how: Any) -> str:
        """Registers and starts; the run's id."""
        view, _ = await self.service.register(text.encode(), "yaml", caller)
        run, _ = await self.service.start(StartRun(workflow=view.name, inputs=inputs or {}), caller, 2, **how)
        return run.id

    async def until(self, run_id: str, *states: RunState, caller: str = "-") -> RunView:
        """The run, once it is in one of these states."""
        async with asyncio.timeout(10):
            while (run := await self.service.run(run_id, caller)).state not in states:
                await asyncio.sleep(0.005)
        return run


@asynccontextmanager
async def workflows(
    pipeline: Pipeline, conf: Config, *, journal: Journal | None = None, mine: Callable[[str], bool] = lambda _: True
) -> AsyncIterator[Served]:
    """In front of a pipeline that runs."""
    journal = journal or MemoryJournal()
    await journal.open()
    hub, plans, catalog = Hub(journal), Plans(), ConfigCatalog(conf)
    outside = RealOutside(conf.workflows)
    services = Services(IngressPrompts(pipeline.ingress), NoKnowledge(), outside)
    engine = Engine(journal, services, catalog, conf.workflows, plans=plans, kinds={}, watcher=hub, mine=mine)
    definitions = Definitions(RegisteredLibrary(journal), plans, catalog, {})
    await engine.start()
    try:
        yield Served(Service(journal, engine, definitions, hub), engine, journal, hub, pipeline, conf)
    finally:
        hub.close()
        await engine.stop()
        await outside.aclose()
        await journal.aclose()


@asynccontextmanager
async def served(conf: Config | None = None, **options: Any) -> AsyncIterator[Served]:
    """With a pipeline of its own."""
    conf = conf or config()
    async with running(conf) as (pipeline, _), workflows(pipeline, conf, **options) as found:
        yield found
