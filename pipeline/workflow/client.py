"""A client of a daemon's workflow API.

    async with WorkflowClient("http://127.0.0.1:8080", api_key="hg_…") as client:
        await client.register(Path("review.yaml"))
        run = await client.start("review", {"text": "…"}, idempotency_key="order-17")
        async for event in client.events(run.id):
            print(event)
        print((await client.run(run.id)).outputs)

Whatever goes wrong is a `WorkflowApiError`. A daemon that has no room, or restarts, is asked again.
"""

import asyncio
import ssl
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import msgspec

from pipeline.workflow.client_http import PATIENCE_S, Http, WorkflowApiError
from pipeline.workflow.errors import Fault
from pipeline.workflow.event_stream import Frame
from pipeline.workflow.journal import AnyEntry, StateChanged
from pipeline.workflow.states import RunState
from pipeline.workflow.views import (
    PAGE_MAX,
    CancelRun,
    RetryRun,
    RunList,
    RunSummary,
    RunView,
    SignalRun,
    StartRun,
    StepView,
    Token,
    ValidationReport,
    WorkflowList,
    WorkflowSummary,
    WorkflowView,
)

__all__ = ["RunEvent", "WorkflowApiError", "WorkflowClient"]

T = TypeVar("T")
Source = str | Path | Mapping[str, Any]

_JSON = "application/json"
_YAML = "application/yaml"
_decode_event = msgspec.json.Decoder(AnyEntry | Token).decode


class RunEvent(NamedTuple):
    """What happened in a run. `number` counts a run's entries from 1; tokens have none (0)."""

    number: int
    entry: AnyEntry | Token

    @property
    def state(self) -> RunState | None:
        """The run's state from now on, where this changed it."""
        return self.entry.state if isinstance(self.entry, StateChanged) else None


class WorkflowClient:
    """To be used as a context, from one event loop. `url` is the daemon's public address, `tls` how its certificate is
    checked. A call that finds the daemon unreachable or overloaded, and may be made again without harm, is, for
    `patience` seconds; each answer must come within `timeout` seconds."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = PATIENCE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._http = Http(url, api_key, timeout, patience, tls)

    async def __aenter__(self) -> Self:
        self._http.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # Workflows.

    async def validate(self, source: Source) -> list[Fault]:
        """Everything that is wrong with a definition there; empty for one that could be registered.

        `source`, here and in `register`: a path, a text (YAML or JSON; one line that is no JSON object is taken for a
        path), or a definition as `pipeline.workflow.builder` makes it.
        """
        body, media = await _content(source)
        answer = await self._http.call("POST", "/v1/workflows/validate", body, media, again=True)
        return _read(answer.body, ValidationReport).errors

    async def register(self, source: Source) -> WorkflowView:
        """What is registered then; the same version again, with the same content, changes nothing. Refused with status
        422 and `faults`, or 409 where the version has other content."""
        body, media = await _content(source)
        return _read((await self._http.call("POST", "/v1/workflows", body, media, again=True)).body, WorkflowView)

    async def workflows(self) -> list[WorkflowSummary]:
        """All versions of all workflows."""
        return _read((await self._http.call("GET", "/v1/workflows")).body, WorkflowList).data

    async def workflow(self, name: str, version: str | None = None) -> WorkflowView:
        """A version; without one the newest."""
        path = f"/v1/workflows/{_quoted(name)}" + ("" if version is None else f"/{_quoted(version)}")
        return _read((await self._http.call("GET", path)).body, WorkflowView)

    # Runs.

    async def start(
        self,
        workflow: str | Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        max_concurrency: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: str | None = None,
    ) -> RunSummary:
        """Starts `name`, `name@version`, or a definition that comes along. With the `idempotency_key` of a run that was
        started before, that run. Without one the client makes one up, so that a call that is made again starts one run
        all the same. `priority` is a class below the key's own."""
        by_name = isinstance(workflow, str)
        asked = StartRun(
            workflow=str(workflow) if by_name else None,
            definition=None if isinstance(workflow, str) else dict(workflow),
            inputs=dict(inputs or {}),
            max_concurrency=max_concurrency,
            metadata=dict(metadata or {}),
        )
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        if priority is not None:
            headers["X-Headgate-Class"] = priority
        answer = await self._http.call("POST", "/v1/runs", msgspec.json.encode(asked), headers=headers, again=True)
        return _read(answer.body, RunSummary)

    async def run(self, run_id: str) -> RunView:
        """With its steps, inputs and outputs."""
        return _read((await self._http.call("GET", _path(run_id))).body, RunView)

    async def step(self, run_id: str, path: str) -> StepView:
        """One step of it, with all that it came to: a run has only smaller values."""
        return _read((await self._http.call("GET", f"{_path(run_id)}/steps/{_quoted(path)}")).body, StepView)

    async def runs(
        self, *, workflow: str | None = None, states: Sequence[str] = (), limit: int | None = None
    ) -> AsyncGenerator[RunSummary, None]:
        """The newest first, `limit` of them at most (None: all), fetched page by page."""
        left, after = limit, None
        while left is None or left > 0:
            query: list[tuple[str, str]] = [("state", str(state)) for state in states]
            query.append(("limit", str(PAGE_MAX if left is None else min(left, PAGE_MAX))))
            query += [(name, value) for name, value in (("workflow", workflow), ("after", after)) if value is not None]
            page = _read((await self._http.call("GET", "/v1/runs", query=query)).body, RunList)
            for run in page.data:
                yield run
            if page.next is None:
                return
            after = page.next
            left = None if left is None else left - len(page.data)

    async def pause(self, run_id: str) -> RunSummary:
        """Steps under way end, no more are started. Status 409, here and below, where the run's state does not allow
        it."""
        return await self._change(run_id, "pause")

    async def resume(self, run_id: str) -> RunSummary:
        return await self._change(run_id, "resume")

    async def cancel(self, run_id: str, because: str = "") -> RunSummary:
        """The run has ended when this returns."""
        return await self._change(run_id, "cancel", CancelRun(because=because))

    async def retry(self, run_id: str, step: str | None = None) -> RunSummary:
        """Lets a run that has ended run again: what did not complete or, with the path of a `step`, that one and all
        that depends on it."""
        return await self._change(run_id, "retry", RetryRun(step=step))

    async def signal(self, run_id: str, event: str, payload: Any = None) -> RunSummary:
        """Ends the `wait` for `event`, now or when it begins."""
        return await self._change(run_id, "signal", SignalRun(event=event, payload=payload))

    async def events(self, run_id: str, after: int = 0) -> AsyncGenerator[RunEvent, None]:
        """What has happened since event number `after` and what happens, each once and in order, until the run has
        ended; between them tokens as they come. Comes back by itself where the stream breaks off. To be closed
        (`contextlib.aclosing`) by who leaves early."""
        final = False
        async with aclosing(self._http.frames(f"{_path(run_id)}/events", after)) as frames:
            async for frame in frames:
                if frame is None and final:  # the stream ended, and the run with it
                    return
                event = None if frame is None else _event(frame)
                if event is None:
                    continue
                if event.number:
                    final = event.state is not None and event.state.final
                yield event

    async def wait(self, run_id: str, within: float | None = None) -> RunView:
        """The run, once it has ended. Raises TimeoutError after `within` seconds."""
        async with asyncio.timeout(within):
            run = await self.run(run_id)
            if run.state.final:
                return run
            async with aclosing(self.events(run_id, run.last)) as events:
                async for _ in events:
                    pass
            return await self.run(run_id)

    async def _change(self, run_id: str, what: str, body: msgspec.Struct | None = None) -> RunSummary:
        content = b"" if body is None else msgspec.json.encode(body)
        return _read((await self._http.call("POST", f"{_path(run_id)}/{what}", content)).body, RunSummary)


def _path(run_id: str) -> str:
    return f"/v1/runs/{_quoted(run_id)}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _event(frame: Frame) -> RunEvent | None:
    """None for events of kinds that this client does not know: a newer daemon may send some."""
    try:
        entry = _decode_event(frame.data)
    except msgspec.MsgspecError:
        return None
    return RunEvent(int(frame.id) if frame.id.isdigit() else 0, entry)


async def _content(source: Source) -> tuple[bytes, str]:
    """Raises OSError for a file that cannot be read."""
    if isinstance(source, Mapping):
        return msgspec.json.encode(source), _JSON
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return source.encode(), _JSON if source.lstrip().startswith("{") else _YAML
    path = Path(source)
    text = await asyncio.to_thread(path.read_bytes)
    return text, _JSON if path.suffix == ".json" else _YAML


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise WorkflowApiError(f"the daemon's answer cannot be read: {error}", code="bad_answer") from error
