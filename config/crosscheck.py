"""Checks between keys, and of what a type cannot say: references, limits that contradict each other, patterns, files.

Each check looks only at keys in which no problem has been found before, so that one mistake is reported once.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from config.access import is_loopback
from config.checks import Checks
from config.errors import Unreadable
from config.files import read_text
from config.findings import Findings
from config.paths import KeyPath, dotted, nearest, quote
from config.patterns import pattern_fault
from config.schema import (
    LOCAL_EMBEDDERS,
    AnthropicWorker,
    CollectionSection,
    Config,
    ExtractiveWorker,
    FewerPassages,
    HttpWorker,
    KeySection,
    RedactFilter,
    RouteSection,
)
from config.schema import WorkerSection as Worker
from config.worker_checks import WorkerChecks
from config.workflow_checks import WorkflowChecks

MAX_TEMPLATE_BYTES = 1 << 20
MAX_PEM_BYTES = 1 << 20
_LISTED = 10  # names
_NO_EMBEDDERS = (AnthropicWorker, ExtractiveWorker)


class Crosscheck(Checks):
    """All of them."""

    def __init__(self, config: Config, folder: Path, findings: Findings) -> None:
        super().__init__(config, folder, findings)
        self._named: dict[str, Sequence[Worker | RouteSection | CollectionSection | KeySection]] = {
            "workers": config.workers,
            "routes": config.routes,
            "collections": config.collections,
            "keys": config.keys,
        }
        self._names = {table: dict.fromkeys(one.name for one in sections) for table, sections in self._named.items()}
        # A table in which a name cannot be read may hold the one that is asked for.
        self._readable = {
            table: findings.sound(*((table, index, "name") for index in range(max(len(sections), 1))))
            for table, sections in self._named.items()
        }

    def run(self) -> None:
        for table in self._named:
            self._unique(table, "name", "a name")
        self._unique("keys", "hash", "a hash")
        self._at_most(("server", "deadline_ms"), ("server", "max_deadline_ms"))
        self._at_most(("server", "stall_ms"), ("server", "blocked_ms"))
        self._tls(("server",))
        self._admin()
        WorkflowChecks(self._config, self._folder, self._findings).run()
        workers = WorkerChecks(self._config, self._folder, self._findings)
        for index, worker in enumerate(self._config.workers):
            workers.run(worker, ("workers", index))
        for index, route in enumerate(self._config.routes):
            self._route(route, ("routes", index))
            self._template(route, ("routes", index))
            self._filters(route, ("routes", index))
            self._degrade(route, ("routes", index))
        for index, collection in enumerate(self._config.collections):
            self._collection(collection, ("collections", index))
        for index, key in enumerate(self._config.keys):
            for position in range(len(key.routes)):
                self._refers(("keys", index, "routes", position), "routes")
        self._anonymous()

    def _unique(self, table: str, field: str, what: str) -> None:
        first: dict[str, int] = {}
        for index, section in enumerate(self._named[table]):
            path = (table, index, field)
            value = getattr(section, field)
            if self._findings.sound(path) and first.setdefault(value, index) != index:
                taken = dotted((table, first[value]))
                self._findings.add(path, quote(value), f"{what} of its own: {taken} has this one")

    def _refers(self, path: KeyPath, table: str) -> bool:
        """Whether the name at `path` is one of the table's. Not judged while one of those cannot be read."""
        names = self._names[table]
        if not (self._readable[table] and self._findings.sound(path)):
            return False
        name = self._at(path)
        if name not in names:
            listed = ", ".join(list(names)[:_LISTED]) + (", …" if len(names) > _LISTED else "")
            expected = f"the name of one of the {table}" + (f": {listed}" if names else "; there are none")
            self._findings.add(path, quote(name), expected, nearest(name, names))
        return name in names

    def _degrade(self, route: RouteSection, path: KeyPath) -> None:
        """Steps that could never change anything."""
        if not self._findings.sound((*path, "degrade")):
            return
        budget = self._config.admission.wait_budget_ms if route.wait_budget_ms is None else route.wait_budget_ms
        if route.degrade and budget == "off":
            self._findings.add((*path, "degrade"), "steps", "none: without a wait budget there is no pressure")
        least = {"passages": route.passages if route.collection is not None else 0, "max_tokens": math.inf}
        for index, step in enumerate(route.degrade):
            key = "passages" if isinstance(step, FewerPassages) else "max_tokens"
            here = (*path, "degrade", index, key)
            value = step.passages if isinstance(step, FewerPassages) else step.max_tokens
            if not self._findings.sound(here):
                continue
            if key == "passages" and route.collection is None:
                self._findings.add(here, f"{value}", "a route with a collection: this one retrieves nothing")
            elif value >= least[key]:
                self._findings.add(here, f"{value}", f"less than {least[key]}, which there is without this step")
            least[key] = min(value, least[key])

    def _anonymous(self) -> None:
        """Somebody must be able to use the server, and that anybody can who reaches it must have been said."""
        server, here, host = self._config.server, ("server", "anonymous"), ("server", "host")
        if self._config.keys or server.anonymous or not self._findings.sound(here, host, ("keys",)):
            return
        if server.anonymous is False:
            self._findings.add(here, "false, and no [[keys]]", "true, or a key (`headgate key new` makes one)")
        elif not is_loopback(server.host):
            expected = f"true if all who reach {server.host} may use it, else a key (`headgate key new` makes one)"
            self._findings.add(here, "nothing, and no [[keys]]", expected, beside=host)

    def _admin(self) -> None:
        """Who reaches the operators' listener from elsewhere must show that he may, and not in the open."""
        admin = self._config.admin
        self._tls(("admin",))
        self._secret(("admin", "token"))
        if not admin.enabled or not self._findings.sound(("admin", "host")) or is_loopback(admin.host):
            return
        for key in ("token", "tls_certificate", "tls_key"):
            if getattr(admin, key) is None and self._findings.sound(("admin", key)):
                expected = f"one: {admin.host} can be reached from elsewhere"
                self._findings.add(("admin", key), "nothing", expected, beside=("admin", "host"))

    def _tls(self, path: KeyPath) -> None:
        """Certificate and key are there, both or none. Whether they fit shows when they are loaded."""
        keys = [(*path, "tls_certificate"), (*path, "tls_key")]
        for key, other in (keys, keys[::-1]):
            name = self._at(key)
            if not self._findings.sound(key):
                continue
            if name is None:
                if self._at(other) is not None:
                    self._findings.add(key, "nothing", f"a file: {dotted(other)} is set", beside=other)
                continue
            try:
                read_text(self._folder / name, MAX_PEM_BYTES)
            except Unreadable as unreadable:
                self._findings.add(key, f"{quote(str(self._folder / name))}: {unreadable.found}", unreadable.expected)

    def _route(self, route: RouteSection, path: KeyPath) -> None:
        self._at_most((*path, "deadline_ms"), ("server", "max_deadline_ms"))
        known = self._route_workers(route, path)
        if route.collection is not None:
            self._refers((*path, "collection"), "collections")
        elif self._findings.sound((*path, "collection")):
            for worker in self._config.workers:
                if worker.name in known and isinstance(worker, ExtractiveWorker):
                    expected = f"a collection: the worker {worker.name} answers from its passages alone"
                    self._findings.add((*path, "collection"), "nothing", expected)

    def _route_workers(self, route: RouteSection, path: KeyPath) -> set[str]:
        """The names of the workers that serve it, as far as they are there."""
        one, several = (*path, "worker"), (*path, "workers")
        if not self._findings.sound(one, several):
            return set()
        if route.worker is not None and route.workers:
            self._findings.add(several, "both worker and workers", "one of the two")
            return set()
        if route.worker is not None:
            alone = {route.worker} if self._refers(one, "workers") else set()
            self._fallback(route, path, alone)
            return alone
        if not route.workers:
            self._findings.add(one, "nothing", "the name of a worker (or [[routes.workers]], for several)")
            return set()
        known: set[str] = set()
        for index, share in enumerate(route.workers):
            here = (*several, index, "worker")
            if self._refers(here, "workers"):
                if share.worker in known:
                    self._findings.add(here, quote(share.worker), "each worker once")
                known.add(share.worker)
        self._fallback(route, path, known)
        weights = [(*several, index, "weight") for index in range(len(route.workers))]
        if self._findings.sound(*weights) and not any(share.weight for share in route.workers):
            self._findings.add(weights[0], "0, as all others", "a weight above 0 for one of them at least")
        return known

    def _fallback(self, route: RouteSection, path: KeyPath, asked: set[str]) -> None:
        """Adds to `asked`, the workers that were asked before. Whoever has failed is not asked again."""
        for index, worker in enumerate(route.fallback):
            here = (*path, "fallback", index)
            if not self._refers(here, "workers"):
                continue
            if worker in asked:
                self._findings.add(here, quote(worker), "each worker once: this one has been asked before, a cycle")
            asked.add(worker)

    def _template(self, route: RouteSection, path: KeyPath) -> None:
        here = (*path, "template_file")
        if route.template_file is None or not self._findings.sound(here, (*path, "template")):
            return
        if route.template is not None:
            self._findings.add(here, "both template and template_file", "one of the two")
            return
        file = self._folder / route.template_file
        try:
            read_text(file, MAX_TEMPLATE_BYTES)
        except Unreadable as unreadable:
            self._findings.add(here, f"{quote(str(file))}: {unreadable.found}", unreadable.expected)

    def _filters(self, route: RouteSection, path: KeyPath) -> None:
        for index, chosen in enumerate(route.filters):
            here = (*path, "filters", index, "pattern")
            wrong = None
            if isinstance(chosen, RedactFilter) and self._findings.sound(here):
                wrong = pattern_fault(chosen.pattern)
            if wrong is not None:
                self._findings.add(here, wrong.found, wrong.expected)

    def _collection(self, collection: CollectionSection, path: KeyPath) -> None:
        self._at_most((*path, "overlap_chars"), (*path, "chunk_chars"), equal=False)
        self._address((*path, "url"))
        self._secret((*path, "api_key"))
        if "/" in collection.name and self._findings.sound((*path, "name")):
            self._findings.add((*path, "name"), quote(collection.name), "a name without /: its folder is named so")
        self._embedder(collection, path)
        if not self._findings.sound((*path, "store")):
            return
        if collection.store == "qdrant":
            if collection.url is None and self._findings.sound((*path, "url")):
                self._findings.add((*path, "url"), "nothing", 'the address of the server, for store = "qdrant"')
            return
        for key in ("url", "api_key"):
            if self._at((*path, key)) is not None and self._findings.sound((*path, key)):
                expected = f'none: only store = "qdrant" has a server, this one is "{collection.store}"'
                self._findings.add((*path, key), "a key for another store", expected)

    def _embedder(self, collection: CollectionSection, path: KeyPath) -> None:
        """One of our own, or a worker, whose vectors' length must be known before the first is made."""
        here, dimension, model = (*path, "embedder"), (*path, "dimension"), (*path, "embedding_model")
        if collection.embedder not in LOCAL_EMBEDDERS:
            if not self._refers(here, "workers"):
                return
            self._embeds(collection, path)
            if collection.dimension is None and self._findings.sound(dimension):
                self._findings.add(dimension, "nothing", "the length of the worker's vectors", beside=here)
            return
        for key in (dimension, model):
            if self._at(key) is not None and self._findings.sound(key, here):
                expected = f"none: the embedder {collection.embedder} is no worker"
                self._findings.add(key, "a key for another embedder", expected, beside=here)

    def _embeds(self, collection: CollectionSection, path: KeyPath) -> None:
        """The worker can, and it is known by which model: nobody's request names one."""
        name, here, model = collection.embedder, (*path, "embedder"), (*path, "embedding_model")
        at = next(index for index, worker in enumerate(self._config.workers) if worker.name == name)
        worker = self._config.workers[at]
        if isinstance(worker, _NO_EMBEDDERS):
            kind = worker.__struct_config__.tag
            self._findings.add(here, quote(name), f"a worker that can embed: one of kind {kind} cannot")
        elif isinstance(worker, HttpWorker) and worker.model is None and collection.embedding_model is None:
            if not self._findings.sound(model, ("workers", at, "model")):
                return
            self._findings.add(model, "nothing", f"a model: the worker {name} has none either", beside=here)
