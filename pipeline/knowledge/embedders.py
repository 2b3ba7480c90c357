"""Which embedder a collection gets."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
from msgspec import structs

from config.schema import LOCAL_EMBEDDERS, AnyWorker, CollectionSection, HttpWorker
from config.secrets import worker_references
from pipeline.knowledge.openers import ResolveSecret
from workers import registry
from workers.base import Embedder, EmbeddingWorker
from workers.errors import EmbedderUnavailable, WorkerUnavailable
from workers.lexical import Lexical
from workers.minilm import INSTALL_HINT, MiniLM, missing_packages
from workers.remote_embedder import RemoteEmbedder, Settings, Worker

_log = structlog.get_logger()


class Embedders:
    """One of each kind, and one for each model of a worker, made when a collection first asks for it. Owns them.
    `remote` makes those that run behind a worker; without it there are none."""

    def __init__(
        self, models: Path, threads: int, remote: Callable[[CollectionSection], RemoteEmbedder] | None = None
    ) -> None:
        self._models = models
        self._threads = threads
        self._remote = remote
        self._made: dict[object, Embedder] = {}

    def of(self, section: CollectionSection) -> Embedder:
        """Raises `EmbedderUnavailable`, and ConfigError for a secret that is not there."""
        wanted = section.embedder
        if wanted in LOCAL_EMBEDDERS:
            return self.get(wanted, section.name)
        key = (wanted, section.embedding_model, section.dimension)
        if key not in self._made:
            if self._remote is None:
                raise EmbedderUnavailable(wanted, "there are no workers here")
            self._made[key] = self._remote(section)
        return self._made[key]

    def get(self, wanted: str, collection: str) -> Embedder:
        """One of LOCAL_EMBEDDERS. Raises `EmbedderUnavailable` when `minilm` is asked for by name and is not
        installed."""
        kind = self._fallback(collection) if wanted == "auto" else wanted
        if kind not in self._made:
            self._made[kind] = MiniLM(self._models, self._threads) if kind == "minilm" else Lexical()
        return self._made[kind]

    async def warm(self) -> None:
        for embedder in self._made.values():
            await embedder.warm()

    async def aclose(self) -> None:
        for embedder in self._made.values():
            await embedder.aclose()

    @staticmethod
    def _fallback(collection: str) -> str:
        missing = missing_packages()
        if not missing:
            return "minilm"
        _log.warning(
            "embedder_is_lexical",
            collection=collection,
            meaning="passages are found by the words they share with the question, not by what they mean",
            missing=missing,
            remedy=f"{INSTALL_HINT}; then `headgate ingest … --recreate`",
        )
        return "lexical"


class RemoteEmbedders:
    """Makes embedders of the configured `workers`. Their secrets are looked up by `resolve`, again whenever a backend
    no longer takes them."""

    def __init__(self, workers: Sequence[AnyWorker], resolve: ResolveSecret, data_dir: Path) -> None:
        self._workers = {worker.name: (position, worker) for position, worker in enumerate(workers)}
        self._resolve = resolve
        self._data_dir = data_dir

    def __call__(self, section: CollectionSection) -> RemoteEmbedder:
        """Raises `EmbedderUnavailable`, ConfigError."""
        if section.embedder not in self._workers or section.dimension is None:
            raise EmbedderUnavailable(section.embedder, "no such worker, or no dimension is configured for it")
        position, worker = self._workers[section.embedder]
        if section.embedding_model is not None and hasattr(worker, "model"):
            worker = structs.replace(worker, model=section.embedding_model)
        if isinstance(worker, HttpWorker) and worker.model is None:
            raise EmbedderUnavailable(worker.name, "neither embedding_model nor the worker's model says which one")
        settings = Settings(
            worker.first_delta_timeout_ms / 1000,
            worker.retries,
            worker.retry_base_ms / 1000,
            worker.retry_max_ms / 1000,
        )
        kind, model = str(worker.__struct_config__.tag), section.embedding_model or _model(worker)
        make = partial(self._make, worker, position)
        return RemoteEmbedder(worker.name, kind, model, section.dimension, make, settings=settings)

    def _make(self, section: AnyWorker, position: int) -> list[Worker]:
        paths = {reference: path for path, reference in worker_references(section, position)}
        made: list[Worker] = []
        for replica in range(len(section.replica_names)):
            try:
                worker = registry.build(
                    section,
                    resolve=lambda reference: self._resolve(reference, path=paths[reference]),
                    replica=replica,
                    data_dir=self._data_dir,
                )
            except WorkerUnavailable as error:
                raise EmbedderUnavailable(section.name, str(error)) from error
            if not isinstance(worker, EmbeddingWorker):
                kind = section.__struct_config__.tag
                raise EmbedderUnavailable(section.name, f"a worker of kind {kind} cannot embed")
            made.append(worker)
        return made


def _model(worker: AnyWorker) -> str:
    """What its vectors are of."""
    for key in ("model", "gguf", "class_"):
        named: str | None = getattr(worker, key, None)
        if named is not None:
            return Path(named).name if key == "gguf" else named
    return worker.name
