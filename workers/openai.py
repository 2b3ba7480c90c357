"""The worker for any server that speaks OpenAI's dialect: chat completions, completions, embeddings."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from config.schema import OpenAIWorker
from workers import openai_completions, openai_embeddings
from workers import openai_servers as servers
from workers.base import EmbeddingRequest, Embeddings, GenerationRequest, Health, NativeDialect, Spout
from workers.errors import WorkerError
from workers.http import Exchange, HttpBackend, whole
from workers.openai_dialect import StreamDecoder, decode_completion, encode_request
from workers.openai_fields import UNDECODABLE
from workers.openai_servers import ABSENT, Capacity
from workers.transport import settle

_ASIDE_TIME = 0.5  # seconds for what is only good to know
_GIVE_UP = 3  # requests in a row that a server would not count, before it is asked no more
_NO_LIST = frozenset({404, 405})  # a backend that can be called, but does not list its models


class OpenAICompatible(HttpBackend):
    """Passes requests on to `{url}/chat/completions` and answers back, each field as it is. Where a client spoke the
    older completions, so to `{url}/completions`, unless the section says otherwise. What the server has beside that is
    found out when it is first asked for, and again after it has been away."""

    section: OpenAIWorker

    def __init__(self, section: OpenAIWorker, url: str, *, resolve: Callable[[str], str], **options: Any) -> None:
        super().__init__(section, url, resolve=resolve, **options)
        self._root = servers.root(url)
        self._tokenizer: servers.Tokenizer | None = None  # None: not known yet
        self._uncounted = 0  # requests in a row, before the tokenizer is known
        self._capacity: Capacity | None = None
        self._chat_only = False  # it has no /completions

    @property
    def native_dialects(self) -> frozenset[NativeDialect]:
        """Dialects in which a request can be passed on, and its answer handed back, as they are."""
        native = self.section.completions == "native" and not self._chat_only
        return frozenset({"completions"} if native else ())

    async def pour(self, request: GenerationRequest, spout: Spout) -> None:
        """A server without /completions is asked for a chat, and from then on at once."""
        try:
            await super().pour(request, spout)
        except WorkerError as error:
            if error.status not in _NO_LIST or not self._native(request):
                raise
            await super().pour(msgspec.structs.replace(request, native=b"", native_dialect=None), spout)
            self._chat_only = True  # and not a model that is not there: that would have failed again

    def exchange(self, request: GenerationRequest) -> Exchange:
        section, choices, secrets = self.section, request.parameters.n, self.secrets
        if self._native(request):
            return Exchange(
                "/completions",
                openai_completions.encode_request(request, model=section.model, ask_usage=section.stream_usage),
                openai_completions.CompletionsDecoder(choices=choices, secrets=secrets),
                partial(openai_completions.decode_completion, secrets=secrets),
            )
        return Exchange(
            "/chat/completions",
            encode_request(request, model=section.model, ask_usage=section.stream_usage),
            StreamDecoder(choices=choices, secrets=secrets),
            partial(decode_completion, secrets=secrets),
        )

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """See `workers.base.EmbeddingWorker`. A request without a client's body names the backend's own model."""
        model = self.section.model if request.body else request.model or self.section.model
        body = openai_embeddings.encode_request(request, model=model)
        answer = await self.ask("POST", "/embeddings", body, request_id=request.request_id)
        return openai_embeddings.decode_answer(answer, request, secrets=self.secrets)

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        """See `workers.base.CountingWorker`."""
        if self._tokenizer == "none":
            return None
        model = self.section.model or request.model
        if self._native(request):
            body = servers.text(request.messages[0].text, model)
            return await self._count(body, body)
        try:
            return await self._count(servers.conversation(request, model), None)
        except UNDECODABLE:
            return None  # the call itself will say so

    async def look(self) -> Health:
        """Whether the backend lists its models, or at least answers like a server that could."""
        try:
            async with self.asking("GET", "/models") as response:
                ok = 200 <= response.status < 300
                body = b""
                if ok and self._capacity is None:
                    body = await whole(response.content)
                else:
                    await settle(response.content)
        except BaseException:
            self._forget()
            raise
        if not ok and response.status not in _NO_LIST:
            self._forget()
            return Health(ok=False, detail=f"GET /models answered {response.status}")
        capacity = self._capacity or Capacity()
        if self._capacity is None:
            with contextlib.suppress(WorkerError, TimeoutError):  # no reason to think less of it
                async with asyncio.timeout(_ASIDE_TIME):
                    capacity = await self._look_around(body)
        return Health(ok=True, slots=capacity.slots, context_tokens=capacity.context_tokens)

    def _native(self, request: GenerationRequest) -> bool:
        return request.native_dialect == "completions" and bool(request.native) and bool(self.native_dialects)

    async def _count(self, asked: bytes, text: bytes | None) -> int | None:
        """By whichever tokenizer there is. `text` is what llama.cpp is to count; None: what it makes of `asked`."""
        if self._tokenizer != "llama.cpp":
            status, body = await self._aside("POST", "/tokenize", asked)
            count = servers.counted(body) if status == 200 else None
            if count is not None:
                self._tokenizer = "vllm"
                return count
            # With 200 llama.cpp answers what it does not understand: no tokens.
            if status != 200 or self._tokenizer == "vllm":
                self._refused_to_count(status)
                return None
        if text is None:
            status, body = await self._aside("POST", "/apply-template", asked)
            prompt = servers.templated(body) if status == 200 else None
            if prompt is None:
                self._refused_to_count(status)
                return None
            text = servers.text(prompt, "")
        status, body = await self._aside("POST", "/tokenize", text)
        count = servers.listed(body) if status == 200 else None
        if count is not None:
            self._tokenizer = "llama.cpp"
        return count

    def _refused_to_count(self, status: int) -> None:
        """Unless it is known to count, a server is not asked for ever: one request alone may be at fault."""
        if self._tokenizer is None:
            self._uncounted += 1
            if status in ABSENT or self._uncounted >= _GIVE_UP:
                self._tokenizer = "none"

    async def _look_around(self, models: bytes) -> Capacity:
        """How much the server takes. Remembered, unless a server that may tell could not now."""
        capacity, known = Capacity(), True
        for path, read in (("/props", servers.props), ("/slots", servers.slots)):
            status, body = await self._aside("GET", path)
            if status == 200:
                capacity = read(body)
                if capacity.slots is not None:
                    break
            known = known and (status == 200 or status in ABSENT)
        window = capacity.context_tokens or servers.models(models, self.section.model)
        capacity = Capacity(capacity.slots, window)
        if known:
            self._capacity = capacity
        return capacity

    def _forget(self) -> None:
        """Another server may be there when it is back."""
        self._tokenizer = self._capacity = None
        self._chat_only = False
        self._uncounted = 0

    async def _aside(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of what is asked at the server's root. Raises `WorkerError`."""
        async with self._client.call(method, self._root + path, headers=self._headers, body=body) as response:
            return response.status, await whole(response.content)
