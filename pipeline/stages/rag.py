"""RAG: finds the passages of the route's collection that fit the newest user message."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from config.schema import RouteSection
from pipeline.core.errors import DeadlineExceeded, RetrievalError, RetrievalFailed
from pipeline.core.messages import PromptRequest, RagOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Retriever
from pipeline.core.queue import StageQueue
from pipeline.stages.base import Clock, Stage


class RagStage(Stage[PromptRequest, RagOutput]):
    """A request's route says which collection to search, for how many passages, how long, and what to do when that
    fails. A request may get fewer (`most_passages`). One whose route has no collection, one for embeddings, and one
    that gets no passages at all, pass at the cost of a hop."""

    place = Place.RAG

    def __init__(
        self,
        inbox: StageQueue[PromptRequest],
        following: Stage[Any, Any],
        concurrency: int,
        clock: Clock,
        *,
        retriever: Retriever | None,
    ) -> None:
        super().__init__(inbox, following, concurrency, clock)
        self._retriever = retriever

    def handle(self, message: PromptRequest) -> RagOutput | Coroutine[Any, Any, RagOutput | None]:
        route: RouteSection = message.course.section
        most = message.most_passages
        count = route.passages if most is None else min(most, route.passages)
        if route.collection is None or count <= 0 or message.embedding is not None:
            return RagOutput(message)
        return self._search(message, route, route.collection, count)

    async def _search(self, request: PromptRequest, route: RouteSection, collection: str, count: int) -> RagOutput:
        limit = min(route.retrieval_timeout_ms / 1000, request.deadline - self.clock())
        if self._retriever is None:
            raise RetrievalFailed("This server has no collections")
        try:
            async with asyncio.timeout(limit):
                passages = await self._retriever.search(collection, request.question, count)
        except TimeoutError as error:
            if self.clock() >= request.deadline:
                raise DeadlineExceeded("The deadline passed during the search for passages") from error
            return self._without(request, route, f"no answer within {limit:.1f} s", error)
        except RetrievalError as error:
            return self._without(request, route, error.message, error)
        request.ticket.passages = len(passages)
        return RagOutput(request, tuple(passages))

    def _without(self, request: PromptRequest, route: RouteSection, why: str, error: Exception) -> RagOutput:
        if route.on_retrieval_failure == "answer":
            request.ticket.degraded = True
            return RagOutput(request, degraded=True)
        raise RetrievalFailed(f"The collection {route.collection!r} could not be searched: {why}") from error
