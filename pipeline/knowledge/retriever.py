"""The Retriever that a shard uses: every collection by its own way."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from config.schema import CollectionSection
from pipeline.adapters.retrievers.stored import StoredRetriever
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Retriever
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.openers import ResolveSecret, remote_opener
from workers.base import Passage


def build_retriever(
    collections: Sequence[CollectionSection], socket_path: Path, resolve_secret: ResolveSecret
) -> Retriever:
    """Collections on a server are searched from here, with query vectors from the knowledge process; the others in the
    knowledge process at `socket_path`. Connects to nothing yet. Raises ConfigError for a secret that is not there.
    """
    knowledge = KnowledgeClient(socket_path)
    retrievers: dict[str, Retriever] = {}
    for position, section in enumerate(collections):
        if section.store == "qdrant":
            opener = remote_opener(section, partial(resolve_secret, path=f"collections[{position}].api_key"))
            retrievers[section.name] = StoredRetriever(section.name, partial(knowledge.embed, section.name), opener)
        else:
            retrievers[section.name] = knowledge
    return CollectionRetriever(retrievers, knowledge)


class CollectionRetriever:
    """A `Retriever` that asks the collection's own. Owns them, and the client that they share."""

    def __init__(self, retrievers: Mapping[str, Retriever], knowledge: KnowledgeClient) -> None:
        self._retrievers = dict(retrievers)
        self._knowledge = knowledge

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        retriever = self._retrievers.get(collection)
        if retriever is None:
            raise RetrievalError(f"no collection {collection!r} is configured", collection=collection)
        return await retriever.search(collection, query, limit)

    async def aclose(self) -> None:
        for retriever in self._retrievers.values():
            if retriever is not self._knowledge:
                await retriever.aclose()
        await self._knowledge.aclose()
