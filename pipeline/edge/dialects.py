"""Every dialect that prompts come in."""

from collections.abc import Mapping

from config.schema import RouteSection
from pipeline.edge.completions import CompletionDialect
from pipeline.edge.embeddings import EmbeddingDialect
from pipeline.edge.exchange import Dialect
from pipeline.edge.messages import MessagesDialect
from pipeline.edge.native import PromptDialect
from pipeline.edge.openai import ChatDialect


def dialects(routes: Mapping[str, RouteSection]) -> dict[str, Dialect]:
    """By path. `routes` are the server's, by name; the mapping is kept, and what it holds may change."""
    known: tuple[Dialect, ...] = (
        ChatDialect(routes),
        CompletionDialect(routes),
        EmbeddingDialect(routes),
        MessagesDialect(routes),
        PromptDialect(routes),
    )
    return {dialect.path: dialect for dialect in known}
