"""The worker for Cohere's chat and embed, version 2."""

from collections.abc import Mapping, Sequence
from functools import partial

from config.schema import CohereWorker
from workers.base import EmbeddingRequest, Embeddings, GenerationRequest, Health
from workers.canonical import Identity
from workers.cohere_answers import StreamDecoder, decode_completion
from workers.cohere_dialect import encode_request, refused
from workers.cohere_texts import MAX_TEXTS, decode_embedded, decode_tokenized, encode_embed, encode_tokenize
from workers.embedding import Vectors, in_batches
from workers.errors import WorkerError
from workers.http import Exchange, HttpBackend
from workers.transport import settle

_NO_LIST = frozenset({404, 405})  # a deployment that can be called, but does not list its models
_NOT_TOLD = frozenset({400, 404, 405, 422, 501})  # to tokenize: of this model, or at all


class Cohere(HttpBackend):
    """Puts requests to `{url}/v2/chat` in Cohere's words and answers in OpenAI's; embeds by `{url}/v2/embed`."""

    section: CohereWorker

    def exchange(self, request: GenerationRequest) -> Exchange:
        body = encode_request(request, model=self.section.model)
        identity = Identity(f"chatcmpl-{request.request_id}", int(self._now()), self.section.model or request.model)
        decoder = StreamDecoder(identity, secrets=self.secrets)
        return Exchange("/v2/chat", body, decoder, partial(decode_completion, identity=identity, secrets=self.secrets))

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> WorkerError:
        return refused(status, headers, body, now=self._now(), secrets=self.secrets)

    async def look(self) -> Health:
        async with self.asking("GET", "/v1/models") as response:
            await settle(response.content)
            ok = 200 <= response.status < 300 or response.status in _NO_LIST
            return Health(ok, "" if ok else f"GET /v1/models answered {response.status}")

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        """See `workers.base.CountingWorker`. Texts and tools are counted; None for a prompt with images."""
        pieces = encode_tokenize(request, model=self.section.model)
        if pieces is None:
            return None
        count = 0
        try:
            for body in pieces:
                count += decode_tokenized(await self.ask("POST", "/v1/tokenize", body, request_id=request.request_id))
        except WorkerError as error:
            if error.status in _NOT_TOLD:
                return None
            raise
        return count

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See `workers.base.EmbeddingWorker`."""

        async def embed(texts: Sequence[str]) -> tuple[Vectors, int]:
            body = encode_embed(request, texts, model=self.section.model)
            return decode_embedded(await self.ask("POST", "/v2/embed", body, request_id=request.request_id), texts)

        return await in_batches(request, MAX_TEXTS, embed, model=self.section.model)
