"""Which handler answers what. There is no router and no middleware: a dictionary, and one function around handlers."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import cast

import structlog
from aiohttp import web

from pipeline.core.errors import HeadgateError, StageFailed
from pipeline.edge import head
from pipeline.edge.call import Edge
from pipeline.edge.errors import UnknownPath, WrongMethod
from pipeline.edge.replies import HttpCall, Reply, refusal

ANY = "*"

Handler = Callable[[HttpCall], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("headgate.edge")


class Dispatcher:
    """`handlers` by method and path; a path that ends with a slash stands for all that begin with it. HEAD is answered
    where GET is, OPTIONS everywhere; what has `ANY` method answers all of them itself. `shard` is shown in every
    answer."""

    def __init__(
        self, edge: Edge, handlers: Mapping[tuple[str, str], Handler], new_id: Callable[[], str], *, shard: int
    ) -> None:
        self._edge = edge
        self._handlers = handlers
        self._usual = {key: handler for key, handler in handlers.items() if not key[1].endswith("/")}
        self._prefixes = {path for _, path in handlers if path.endswith("/")}
        self._new_id = new_id
        self._fields = f"X-Headgate-Shard: {shard}\r\nServer: headgate\r\n"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request, whatever happens; raises ConnectionError when it cannot be given any more."""
        headers = request.headers
        request_id = head.request_id(headers, self._new_id)
        fields = f"X-Request-Id: {request_id}\r\n"
        trace = head.traceparent(headers)
        if trace is not None:
            fields += f"traceparent: {trace}\r\n"
        call = HttpCall(request, request_id, fields, self._fields, self._edge)
        try:
            handler = self._usual.get((request.method, request.raw_path)) or self._find(request)
            response = await handler(call)
        except HeadgateError as error:
            response = _refusal(call, error)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - a bug in one handler is one request's failure, logged and answered
            _log.exception("request handler failed", request_id=request_id)
            response = _refusal(call, StageFailed("The server failed on this request"))
        content = request.content
        if self._edge.draining or not content.is_eof() or content.exception() is not None:
            response.force_close()
        if self._edge.after_answer is not None:
            self._edge.loop.call_soon(self._edge.after_answer)
        return response

    def _find(self, request: web.BaseRequest) -> Handler:
        """The handler for what is not asked for in the one usual way. Raises `UnknownPath` or `WrongMethod`."""
        path = request.path
        served = path
        for prefix in self._prefixes:
            if path == prefix:
                served = ""  # nothing after the slash
            elif path.startswith(prefix):
                served = prefix
        if (ANY, served) in self._handlers:
            return self._handlers[ANY, served]
        allowed = sorted({method for method, known in self._handlers if known == served})
        method = "GET" if request.method == "HEAD" else request.method
        if method in allowed:
            return self._handlers[method, served]
        if "GET" in allowed:
            allowed.append("HEAD")
        allowed.append("OPTIONS")
        known = len(allowed) > 1
        if request.method == "OPTIONS" and (known or path == "*"):
            return partial(_options, allowed)
        if not known:
            raise UnknownPath(f"Unknown URL ({request.method} {path[:256]})")
        raise WrongMethod(f"{request.method} is not allowed on {path[:256]}", allowed=allowed)


def _refusal(call: HttpCall, error: HeadgateError) -> web.StreamResponse:
    if call.request.writer.output_size > 0:
        raise ConnectionError("a part of another answer has been sent") from error
    return cast(web.StreamResponse, refusal(call, error))


async def _options(allowed: list[str], call: HttpCall) -> web.StreamResponse:
    return Reply(call, b"", f"Allow: {', '.join(allowed)}\r\n", status=204)
