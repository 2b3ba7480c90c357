"""The worker for Ollama's own API, which has what its OpenAI-compatible one leaves out: the window, and the stay in
memory."""

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from config.schema import OllamaWorker
from workers.base import EmbeddingRequest, Embeddings, GenerationRequest, Health
from workers.canonical import Identity
from workers.embedding import Vectors, in_batches
from workers.errors import WorkerError
from workers.http import Exchange, HttpBackend
from workers.ollama_answers import StreamDecoder, decode_completion, decode_embedded
from workers.ollama_dialect import encode_embed, encode_request, refused
from workers.reading import UNDECODABLE

_NDJSON = "application/x-ndjson"
_MAX_TEXTS = 256  # of one call to embed, so that its answer does not grow beyond what is read of one


class _Version(msgspec.Struct):
    version: str


class Ollama(HttpBackend):
    """Puts requests to `{url}/api/chat` in Ollama's words and answers in OpenAI's; embeds by `{url}/api/embed`."""

    section: OllamaWorker

    def exchange(self, request: GenerationRequest) -> Exchange:
        body = encode_request(request, self.section)
        identity = Identity(f"chatcmpl-{request.request_id}", int(self._now()), self.section.model or request.model)
        decoder = StreamDecoder(identity, secrets=self.secrets)
        whole = partial(decode_completion, identity=identity, secrets=self.secrets)
        headers = {"accept": f"{_NDJSON}, application/json"}
        return Exchange("/api/chat", body, decoder, whole, headers, _NDJSON)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> WorkerError:
        return refused(status, headers, body, now=self._now(), secrets=self.secrets)

    async def look(self) -> Health:
        try:
            msgspec.json.decode(await self.ask("GET", "/api/version"), type=_Version)
        except UNDECODABLE:
            return Health(ok=False, detail="GET /api/version answered something else than a version")
        return Health(ok=True)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See `workers.base.EmbeddingWorker`."""

        async def embed(texts: Sequence[str]) -> tuple[Vectors, int]:
            body = encode_embed(request, texts, self.section)
            return decode_embedded(await self.ask("POST", "/api/embed", body, request_id=request.request_id), texts)

        return await in_batches(request, _MAX_TEXTS, embed, model=self.section.model)
