"""What each endpoint of the workflow API answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from pipeline.core.errors import InvalidRequest
from pipeline.edge.call import Response
from pipeline.edge.replies import JSON_FIELD
from pipeline.edge.workflows_calls import Request, definition, fields, idempotency_key, number, one, read
from pipeline.workflow.service import Service
from pipeline.workflow.states import RunState
from pipeline.workflow.views import (
    PAGE_DEFAULT,
    PAGE_MAX,
    CancelRun,
    RetryRun,
    SignalRun,
    StartRun,
    ValidationReport,
    WorkflowList,
)

Answer = Callable[[Request], Awaitable[Response]]

T = TypeVar("T")

_SMALL = 65_536  # bytes of a body that the event loop reads itself
_FEW = 32  # steps of a run that it writes down itself

_decode_start = msgspec.json.Decoder(StartRun)
_decode_cancel = msgspec.json.Decoder(CancelRun)
_decode_retry = msgspec.json.Decoder(RetryRun)
_decode_signal = msgspec.json.Decoder(SignalRun)
_decode_nothing = msgspec.json.Decoder(Nothing := msgspec.defstruct("Nothing", [], forbid_unknown_fields=True))
_encode = msgspec.json.encode


class Answers:
    """By operation (`Target.operation`). All raise `HeadgateError`s; those about a run that is executed raise
    `Elsewhere`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.of: dict[str, Answer] = {
            "validate": self._validate,
            "register": self._register,
            "workflows": self._workflows,
            "workflow": self._workflow,
            "start_as": self._start,
            "runs": self._runs,
            "run": self._run,
            "step": self._step,
            "pause": self._pause,
            "resume": self._resume,
            "cancel": self._cancel,
            "retry": self._retry,
            "signal": self._signal,
        }

    # Workflows.

    async def _validate(self, request: Request) -> Response:
        faults = await self._service.validate(*definition(request))
        return _json(request, ValidationReport(not faults, faults))

    async def _register(self, request: Request) -> Response:
        view, created = await self._service.register(*definition(request), request.caller.name)
        return _json(request, view, 201 if created else 200)

    async def _workflows(self, request: Request) -> Response:
        return _json(request, WorkflowList(await self._service.workflows()))

    async def _workflow(self, request: Request) -> Response:
        name, *version = request.target.names
        return _json(request, await self._service.workflow(name, version[0] if version else None))

    # Runs.

    async def _start(self, request: Request) -> Response:
        start = await _aside(request, lambda: read(_decode_start, request))
        run, created = await self._service.start(
            start,
            request.caller.name,
            request.priority,
            idempotency_key(request.call.headers),
            run_id=request.target.names[0],
            routes=request.caller.routes,
            size=len(request.body),
        )
        return _json(request, run, 201 if created else 200)

    async def _runs(self, request: Request) -> Response:
        found = fields(request.target, "workflow", "state", "limit", "after")
        page = await self._service.runs(
            request.caller.name,
            workflow=one(found, "workflow"),
            states=[_state(name) for text in found["state"] for name in text.split(",")],
            limit=number(one(found, "limit"), "limit", 1, PAGE_MAX, PAGE_DEFAULT),
            after=one(found, "after"),
        )
        return _json(request, page)

    async def _run(self, request: Request) -> Response:
        run = await self._service.run(request.target.names[0], request.caller.name)
        return _json(request, run) if len(run.steps) < _FEW else await _large(request, run)

    async def _step(self, request: Request) -> Response:
        run_id, path = request.target.names
        return await _large(request, await self._service.step(run_id, request.caller.name, path))

    async def _pause(self, request: Request) -> Response:
        read(_decode_nothing, request, Nothing())
        return _json(request, await self._service.pause(request.target.names[0], request.caller.name))

    async def _resume(self, request: Request) -> Response:
        read(_decode_nothing, request, Nothing())
        return _json(request, await self._service.resume(request.target.names[0], request.caller.name))

    async def _cancel(self, request: Request) -> Response:
        asked = read(_decode_cancel, request, CancelRun())
        return _json(request, await self._service.cancel(request.target.names[0], request.caller.name, asked.because))

    async def _retry(self, request: Request) -> Response:
        asked = read(_decode_retry, request, RetryRun())
        return _json(request, await self._service.retry(request.target.names[0], request.caller.name, asked.step))

    async def _signal(self, request: Request) -> Response:
        asked = await _aside(request, lambda: read(_decode_signal, request))
        run = await self._service.signal(request.target.names[0], request.caller.name, asked.event, asked.payload)
        return _json(request, run)


async def _aside(request: Request, reading: Callable[[], T]) -> T:
    """In a thread where it takes long enough for others to notice."""
    return reading() if len(request.body) < _SMALL else await asyncio.to_thread(reading)


async def _large(request: Request, body: msgspec.Struct) -> Response:
    """It may take a while to write down."""
    return request.call.reply(await asyncio.to_thread(_encode, body), JSON_FIELD)


def _json(request: Request, body: msgspec.Struct, status: int = 200) -> Response:
    return request.call.reply(_encode(body), JSON_FIELD, status)


def _state(name: str) -> RunState:
    """Raises `InvalidRequest`."""
    try:
        return RunState(name)
    except ValueError:
        known = ", ".join(RunState)
        raise InvalidRequest(
            f"Invalid value for 'state': expected one of {known}, got {name[:40]!r}.", param="state"
        ) from None
