"""The worker for Anthropic's Messages, and for servers that speak them."""

from collections.abc import Mapping
from functools import partial

import msgspec

from config.schema import AnthropicWorker
from workers import anthropic_errors
from workers.anthropic_dialect import StreamDecoder, decode_message
from workers.anthropic_native import NativeDecoder, decode_native, encode_native
from workers.anthropic_requests import encode_count, encode_request
from workers.base import GenerationRequest, Health
from workers.errors import WorkerError
from workers.http import Exchange, HttpBackend
from workers.transport import settle

PATH = "/v1/messages"
_NOT_THERE = frozenset({404, 405})  # a server that has no such path


class Anthropic(HttpBackend):
    """Puts requests to `{url}/v1/messages`: translated, or as they came where their client spoke this dialect too."""

    section: AnthropicWorker

    def credentials(self, api_key: str | None) -> Mapping[str, str]:
        version = {"anthropic-version": self.section.version}
        return version if api_key is None else {**version, "x-api-key": api_key}

    def exchange(self, request: GenerationRequest) -> Exchange:
        model, secrets = self.section.model, self.secrets
        if request.native and request.native_dialect == "messages":
            body = encode_native(request, model=model)
            if request.native_answer:
                return Exchange(PATH, body, NativeDecoder(secrets=secrets), partial(decode_native, secrets=secrets))
        else:
            body = encode_request(request, model=model, answer_tokens=self.section.answer_tokens)
        created = int(self._now())
        decoder = StreamDecoder(created=created, secrets=secrets)
        return Exchange(PATH, body, decoder, partial(decode_message, created=created, secrets=secrets))

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> WorkerError:
        return anthropic_errors.refusal(status, headers, body, now=self._now(), secrets=self.secrets)

    async def look(self) -> Health:
        """Whether the backend lists its models, or at least answers like a server that could."""
        async with self.asking("GET", "/v1/models") as response:
            await settle(response.content)
            ok = 200 <= response.status < 300 or response.status in _NOT_THERE
            return Health(ok, "" if ok else f"GET /v1/models answered {response.status}")

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        """See `workers.base.CountingWorker`."""
        body = encode_count(request, model=self.section.model)
        try:
            answer = await self.ask("POST", PATH + "/count_tokens", body, request_id=request.request_id)
        except WorkerError as error:
            if error.status in _NOT_THERE:
                return None
            raise
        try:
            return max(0, _decode_count(answer).input_tokens)
        except msgspec.MsgspecError:
            return None


class _Count(msgspec.Struct):
    input_tokens: int


_decode_count = msgspec.json.Decoder(_Count).decode
