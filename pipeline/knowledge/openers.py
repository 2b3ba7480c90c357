"""How a collection's store is opened, by its section."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from config.schema import CollectionSection
from pipeline.adapters.stores import qdrant
from pipeline.adapters.stores.edge import EdgeStore
from pipeline.adapters.stores.memory import MemoryShelf
from pipeline.core.ports import CollectionStore, Manifest
from pipeline.knowledge.places import collection_folder


class ResolveSecret(Protocol):
    """`config.secrets.resolve`."""

    def __call__(self, reference: str, *, path: str) -> str: ...


class Opener(Protocol):
    """Opens a collection's store; see the stores' `open`."""

    def __call__(self, manifest: Manifest, *, recreate: bool = False) -> Awaitable[CollectionStore]: ...


def opener_of(section: CollectionSection, shelf: MemoryShelf, data_dir: Path, resolve: Callable[[str], str]) -> Opener:
    """Raises ConfigError for a secret that is not there."""
    if section.store == "memory":
        return shelf.open
    if section.store == "embedded":
        return partial(EdgeStore.open, collection_folder(data_dir, section.name))
    return remote_opener(section, resolve)


def remote_opener(section: CollectionSection, resolve: Callable[[str], str]) -> Opener:
    """Opens the collection on its Qdrant server. Looks the API key up at once, so that a missing one shows at start."""
    api_key = None if section.api_key is None else resolve(section.api_key)

    async def opener(manifest: Manifest, *, recreate: bool = False) -> CollectionStore:
        client = qdrant.connect(section.url or "", api_key, section.timeout_ms)
        try:
            return await qdrant.QdrantStore.open(client, manifest, recreate=recreate, secret=api_key)
        except BaseException:
            await client.close()
            raise

    return opener
