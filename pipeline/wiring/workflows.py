"""The workflows of one process: engine, service and watchers, made of the configuration, a pipeline and a journal."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from config.schema import Config
from pipeline.adapters.outside.real import RealOutside
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.workflow import CollectionKnowledge, Collections
from pipeline.wiring.catalog import ConfigCatalog
from pipeline.wiring.pipeline import Pipeline
from pipeline.workflow.engine import Engine
from pipeline.workflow.events import Hub
from pipeline.workflow.journal import Journal
from pipeline.workflow.library import Definitions, RegisteredLibrary
from pipeline.workflow.plans import Plans
from pipeline.workflow.ports import Kind, Library, Services
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.service import Service
from pipeline.workflow.steps import custom_kinds

_log = structlog.get_logger("headgate.workflow")


class _Closed(Protocol):
    async def aclose(self) -> None: ...


class _Parts(NamedTuple):
    """`closed` are closed at the end, in this order."""

    journal: Journal
    catalog: ConfigCatalog
    closed: Sequence[_Closed]
    shard: int


class Workflows:
    """start → … → stop. Owns all its parts but the pipeline, which must be there for longer."""

    def __init__(self, service: Service, engine: Engine, hub: Hub, parts: "_Parts") -> None:
        self.service = service
        self.engine = engine
        self.hub = hub
        self._parts = parts
        self._open = False

    async def start(self) -> None:
        """Opens the journal and takes up what was interrupted. Raises `JournalFailed`, and may then be called again."""
        if not self._open:
            await self._parts.journal.open()
            self._open = True
            _log.debug("journal_opened", shard=self._parts.shard, holder=self._parts.journal.holder)
        await self.engine.start()

    def follow(self, config: Config) -> None:
        """Routes are these from now on. The section `workflows` needs a restart, and so do new collections."""
        self._parts.catalog.config = config

    async def stop(self, grace: float = 0.0) -> None:
        """Gives steps under way `grace` seconds and all runs back. May be called again."""
        if self._open:
            self._open = False
            await self.engine.stop(grace)
            self.hub.close()
            await self._parts.journal.aclose()
        for part in self._parts.closed:
            await part.aclose()


def build_workflows(
    config: Config,
    pipeline: Pipeline,
    *,
    journal: Journal,
    shard: int = 0,
    mine: Callable[[str], bool] = lambda _: True,
    collections: Collections | None = None,
    library: Library | None = None,
    kinds: Mapping[str, Kind] | None = None,
) -> Workflows:
    """Builds what has not been started. `mine` tells which interrupted runs are to be taken up here; `collections`
    stand for the knowledge process, `library` for the registered workflows that others call, `kinds` for the
    step types of entry points."""
    section = config.workflows
    reached = collections or KnowledgeClient(Path(config.server.data_dir) / SOCKET)
    knowledge = CollectionKnowledge(config.collections, reached)
    outside = RealOutside(section)
    catalog, plans, hub = ConfigCatalog(config), Plans(), Hub(journal)
    kinds = custom_kinds() if kinds is None else kinds
    engine = Engine(
        journal,
        Services(IngressPrompts(pipeline.ingress), knowledge, outside),
        catalog,
        section,
        plans=plans,
        kinds=kinds,
        watcher=hub,
        mine=mine,
    )
    definitions = Definitions(library or RegisteredLibrary(journal), plans, catalog, kinds)
    service = Service(journal, engine, definitions, hub)
    closed: list[_Closed] = [knowledge, outside, *([reached] if collections is None else [])]
    return Workflows(service, engine, hub, _Parts(journal, catalog, closed, shard))
