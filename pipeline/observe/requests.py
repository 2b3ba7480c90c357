"""One line for each ended request. It is on the data path, so a JSON line goes around structlog's processors."""

import json
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from pipeline.core.errors import BackendFailed, Overloaded
from pipeline.core.messages import PromptRequest
from pipeline.core.outcomes import OUTCOME_OF, Place, Priority, Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.layout import UNROUTED
from pipeline.observe.lines import LineWriter
from pipeline.observe.observers import Selective

_LABELS = tuple(place.label for place in Place)
_CLASSES = tuple(None if priority is Priority.NORMAL else priority.label for priority in Priority)


class StageTimes(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Milliseconds; a stage that the request did not enter is absent."""

    rag: float | None = None
    assemble: float | None = None
    inference: float | None = None
    post: float | None = None
    stream: float | None = None


class RequestRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="event", tag="request"):
    """What is logged about a request: how it went, never what it said. Absent keys: not known, or nothing."""

    timestamp: datetime
    level: str
    process: str
    request_id: str
    route: str
    worker: str
    outcome: str
    stage: str
    reason: str
    stream: bool
    duration_ms: float
    queue_ms: StageTimes
    stage_ms: StageTimes
    session_id: str | None = None
    key: str | None = None
    class_: str | None = msgspec.field(default=None, name="class")
    first_token_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    deltas: int = 0
    passages: int = 0
    cut_passages: int = 0
    cut_turns: int = 0
    degraded: bool = False
    reduced: tuple[str, ...] = ()
    backend_status: int | None = None
    error: str | None = None
    estimated_wait_ms: float | None = None
    allowed_wait_ms: float | None = None
    accepted_by: int | None = None
    retries: int = 0


# Their messages are ours: they quote neither a prompt nor a backend, which may quote one.
_TELLING = frozenset(
    [Reason.BACKEND_UNREACHABLE, Reason.BACKEND_RESET, Reason.BACKEND_CUT, Reason.BACKEND_TIMEOUT, Reason.RETRIEVAL]
)


def record_of(ticket: Ticket, process: str) -> RequestRecord:
    """Raises ValueError when the request has not ended."""
    ending, usage, cut, first, caller = ticket.ending, ticket.usage, ticket.cut, ticket.first_delta, ticket.caller
    if ending is None or ticket.ended is None:
        raise ValueError(f"request {ticket.request_id} has not ended")
    error = ending.error
    return RequestRecord(  # by position: half the time of naming them
        datetime.now(UTC),
        "info",
        process,
        ticket.request_id,
        ticket.route,
        ticket.worker,
        OUTCOME_OF[ending.reason].value,
        _LABELS[ending.place],
        ending.reason.value,
        ticket.stream,
        _ms(ticket.ended - ticket.arrived),
        _stage_times(ticket.sojourn),
        _stage_times(ticket.service),
        ticket.session_id,
        None if caller is None or caller.name == "-" else caller.name,
        _CLASSES[ticket.priority],
        None if first is None else _ms(first),
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        ticket.chunks,
        ticket.passages,
        0 if cut is None else cut.passages,
        0 if cut is None else cut.turns,
        ticket.degraded,
        ticket.reduced,
        error.backend_status if isinstance(error, BackendFailed) else None,
        error.message if error is not None and ending.reason in _TELLING else None,
        *(_waits(error) if isinstance(error, Overloaded) else (None, None)),
        ticket.accepted_by,
        ticket.retries,
    )


def record_of_gated(error: Overloaded, arrived: float, now: float, request_id: str, process: str) -> RequestRecord:
    """Of a request that the head gate refused: little is known, as its body was not read."""
    return RequestRecord(
        timestamp=datetime.now(UTC),
        level="info",
        process=process,
        request_id=request_id or "-",
        route=UNROUTED,
        worker="-",
        outcome=OUTCOME_OF[Reason(error.reason)].value,
        stage=Place.INGRESS.label,
        reason=error.reason,
        stream=False,
        duration_ms=_ms(now - arrived),
        queue_ms=StageTimes(),
        stage_ms=StageTimes(),
        class_=None if error.priority is None else _CLASSES[error.priority],
        estimated_wait_ms=_waits(error)[0],
        allowed_wait_ms=_waits(error)[1],
    )


class JsonRequestLog(Hooks):
    """For machines."""

    def __init__(self, writer: LineWriter, process: str) -> None:
        self._writer = writer
        self._process = process
        self._encode = msgspec.json.Encoder().encode

    def after_end(self, ticket: Ticket) -> None:
        self._write(record_of(ticket, self._process))

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        self._write(record_of_gated(error, arrived, now, request_id, self._process))

    def _write(self, record: RequestRecord) -> None:
        try:
            line = self._encode(record)
        except (UnicodeEncodeError, OverflowError):  # clients choose session ids, backends token counts
            line = json.dumps(msgspec.to_builtins(record)).encode()
        self._writer.gather(line + b"\n")


class ConsoleRequestLog(Hooks):
    """The same for people at a terminal, through structlog."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log

    def after_end(self, ticket: Ticket) -> None:
        self._write(record_of(ticket, ""))

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        self._write(record_of_gated(error, arrived, now, request_id, ""))

    def _write(self, record: RequestRecord) -> None:
        fields = msgspec.to_builtins(record)
        for key in ("event", "timestamp", "level", "process"):  # structlog's own
            del fields[key]
        shown = {key: for_people(value) for key, value in fields.items() if value not in ({}, "-")}
        self._log.info("request", **shown)


class FaultLog(Selective):
    """Where a stage's handler raised, for whoever mends it. The error's message is left out, as it may quote a prompt,
    unless `messages` is set."""

    def __init__(self, log: FilteringBoundLogger, *, messages: bool) -> None:
        self._log = log
        self._messages = messages

    def wants(self, ticket: Ticket) -> bool:
        return ticket.ending is not None and ticket.ending.reason is Reason.STAGE_ERROR

    def after_end(self, ticket: Ticket) -> None:
        ending = ticket.ending
        if ending is None or ending.error is None:
            return
        cause = ending.error.__cause__ or ending.error
        self._log.error(
            "stage_failed",
            request_id=ticket.request_id,
            stage=_LABELS[ending.place],
            error=f"{type(cause).__name__}: {cause}" if self._messages else type(cause).__name__,
            frames="".join(traceback.format_tb(cause.__traceback__)),
        )


class PromptLog(Hooks):
    """What requests say, at debug level: only where the configuration asks for it."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log

    def after_submit(self, request: PromptRequest) -> None:
        messages = [{"role": message.role, "text": message.text} for message in request.messages]
        self._log.debug("prompt", request_id=request.request_id, route=request.route, messages=messages)


def for_people(value: Any) -> Any:
    """A field's value as a terminal shows it."""
    if isinstance(value, dict):
        return " ".join(f"{key}:{number}" for key, number in value.items())
    return " ".join(value) if isinstance(value, list | tuple) else value


def _waits(error: Overloaded) -> tuple[float | None, float | None]:
    """What was estimated and what was allowed, in milliseconds, where that was the question."""
    if error.wait is None or error.allowed is None:
        return None, None
    return _ms(error.wait), _ms(error.allowed)


def _ms(seconds: float) -> float:
    return int(seconds * 1e6) / 1e3


def _stage_times(seconds: list[float]) -> StageTimes:
    rag, assemble, inference, post, stream = seconds
    return StageTimes(
        int(rag * 1e6) / 1e3 or None,
        int(assemble * 1e6) / 1e3 or None,
        int(inference * 1e6) / 1e3 or None,
        int(post * 1e6) / 1e3 or None,
        int(stream * 1e6) / 1e3 or None,
    )
