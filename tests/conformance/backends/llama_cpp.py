"""llama.cpp's server as the daemon runs it: OpenAI's dialect with `reasoning_content`, on a Unix socket, without a key.

Here it is written down as its reference has it, so that it can be scripted and can misbehave; the real one, in the real
process, is in tests/workers/test_llama_cpp.py. Source: llama.cpp, tools/server/README.md.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from config.schema import AnyWorker, LlamaCppWorker
from tests.certificates import Files
from tests.conformance.backends.openai import OpenAISpeaker
from tests.conformance.backends.server import HttpServed
from tests.conformance.backends.speaker import SECRET, Feature, Finish, Heard, Refusal, Served, built, encoded, given
from workers import llama_files
from workers.errors import WorkerErrorKind as Kind


class LlamaCppSpeaker(OpenAISpeaker):
    kind = "llama-cpp"
    lacks: ClassVar[frozenset[Feature]] = frozenset(
        {
            "credentials",  # the socket is the daemon's alone
            "network",
            "tls",
            "renamed",  # one process has one model
            "retry_after",
        }
    )
    never: ClassVar[frozenset[Kind]] = frozenset(
        {Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.TIMEOUT, Kind.CONTENT_FILTERED}
    )
    statuses: ClassVar[Mapping[int, Kind]] = {503: Kind.UNAVAILABLE}  # the model is being loaded
    reasons: ClassVar[Mapping[str, Finish]] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("llama-cpp", gguf="model.gguf", **{**fields, "api_key": None})

    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        return super().hear(path, {**headers, "authorization": f"Bearer {SECRET}"}, body)

    def refusals(self, words: str) -> list[Refusal]:
        def error(kind: Kind, status: int, type_: str) -> Refusal:
            return Refusal(kind, status, encoded({"error": {"code": status, "message": words, "type": type_}}))

        return [
            error(Kind.BAD_REQUEST, 400, "invalid_request_error"),
            error(Kind.CONTEXT_TOO_LONG, 400, "exceed_context_size_error"),
            error(Kind.AUTH, 401, "authentication_error"),
            error(Kind.AUTH, 403, "permission_error"),
            error(Kind.BAD_REQUEST, 404, "not_found_error"),
            error(Kind.UNAVAILABLE, 500, "server_error"),
            error(Kind.BAD_REQUEST, 501, "not_supported_error"),
        ]

    def in_band(self, kind: Kind, words: str) -> bytes | None:
        type_ = {
            Kind.BAD_REQUEST: "invalid_request_error",
            Kind.CONTEXT_TOO_LONG: "exceed_context_size_error",
            Kind.UNAVAILABLE: "server_error",
        }.get(kind)
        return None if type_ is None else b"data: %s\n\n" % encoded({"error": {"message": words, "type": type_}})

    def get(self, path: str) -> bytes | None:
        return {"/v1/health": b'{"status": "ok"}', "/v1/models": b'{"object": "list", "data": []}'}.get(path)

    @asynccontextmanager
    async def serving(self, folder: Path, *, tls: Files | None = None, **fields: Any) -> AsyncIterator[Served]:
        section = self.section("", **fields)
        assert isinstance(section, LlamaCppWorker)
        path = llama_files.files(section, folder).socket
        path.parent.mkdir(exist_ok=True)
        served = HttpServed(self)
        server = await asyncio.start_unix_server(served.connection, path)
        served.worker = built(section, folder)
        try:
            yield served
        finally:
            await served.worker.aclose()
            server.close()
            await served.leave()


SPEAKER = LlamaCppSpeaker()
