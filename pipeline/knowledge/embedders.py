"""Which embedder a collection gets."""

from pathlib import Path
from typing import Literal

import structlog

from workers.base import Embedder
from workers.lexical import Lexical
from workers.minilm import INSTALL_HINT, MiniLM, missing_packages

_log = structlog.get_logger()

Kind = Literal["minilm", "lexical"]


class Embedders:
    """One of each kind, made when a collection first asks for it. Owns them."""

    def __init__(self, models: Path, threads: int) -> None:
        self._models = models
        self._threads = threads
        self._made: dict[Kind, Embedder] = {}

    def get(self, wanted: Literal["auto", "minilm", "lexical"], collection: str) -> Embedder:
        """Raises `EmbedderUnavailable` when `minilm` is asked for by name and is not installed."""
        kind: Kind = self._fallback(collection) if wanted == "auto" else wanted
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
    def _fallback(collection: str) -> Kind:
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
