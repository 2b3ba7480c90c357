"""What is not a prompt: health, readiness, metrics, models, the API's description."""

import time
from urllib.parse import unquote

import msgspec
from aiohttp import web

from pipeline.core.errors import UnknownModel
from pipeline.core.ports import Operations
from pipeline.edge import head
from pipeline.edge.errors import MetricsUnavailable
from pipeline.edge.openai_types import Model, ModelList
from pipeline.edge.replies import HttpCall, Reply
from pipeline.ingress import Ingress

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

encode = msgspec.json.encode


class Healthy(msgspec.Struct, frozen=True):
    """The process runs and its event loop turns."""

    status: str = "ok"


class ReadinessBody(msgspec.Struct, frozen=True):
    """`ready` tells whether new requests are welcome, `detail` the state of each part."""

    ready: bool
    detail: dict[str, str]


class OperationsHandlers:
    """The ingress's routes are the models that clients can ask for, each client those that its key may use. What a
    monitor reads needs no key."""

    def __init__(self, operations: Operations, ingress: Ingress, description: bytes) -> None:
        self._operations = operations
        self._ingress = ingress
        self._description = description
        self._started = int(time.time())

    async def health(self, call: HttpCall) -> web.StreamResponse:
        return Reply(call, encode(Healthy()))

    async def ready(self, call: HttpCall) -> web.StreamResponse:
        readiness = self._operations.readiness()
        body = encode(ReadinessBody(readiness.ready, readiness.detail))
        return Reply(call, body, status=200 if readiness.ready else 503)

    async def metrics(self, call: HttpCall) -> web.StreamResponse:
        try:
            body = await self._operations.metrics()
        except ConnectionError as error:
            raise MetricsUnavailable("The supervisor, which renders the metrics, cannot be asked now") from error
        return Reply(call, body, f"Content-Type: {METRICS_TYPE}\r\n")

    async def openapi(self, call: HttpCall) -> web.StreamResponse:
        return Reply(call, self._description)

    async def models(self, call: HttpCall) -> web.StreamResponse:
        models = [Model(id=name, created=self._started) for name in self._routes(call)]
        return Reply(call, encode(ModelList(data=models)))

    async def model(self, call: HttpCall) -> web.StreamResponse:
        """Names of routes may have slashes; clients send them as they are, or encoded."""
        name = unquote(call.request.rel_url.raw_path.removeprefix("/v1/models/"), errors="replace")
        if name not in self._routes(call):
            raise UnknownModel(f"The model {name[:256]!r} does not exist", param="model")
        return Reply(call, encode(Model(id=name, created=self._started)))

    def _routes(self, call: HttpCall) -> list[str]:
        """Those that the client may use, in the configuration's order. Raises `Unauthorized`."""
        allowed = self._ingress.access.caller(head.presented_key(call.request.headers)).routes
        return [name for name in self._ingress.routes if allowed is None or name in allowed]
