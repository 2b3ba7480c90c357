"""What can be asked of workflows and runs, as the REST API and local commands ask it.

Who asks is a caller's name: each sees its own runs only, and everybody the registered workflows.
"""

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NoReturn

import msgspec

from pipeline.core.errors import Forbidden, InvalidRequest
from pipeline.workflow import inputs
from pipeline.workflow.engine import Elsewhere, Engine
from pipeline.workflow.errors import (
    Conflict,
    DefinitionRefused,
    Fault,
    JournalFailed,
    UnknownRun,
    UnknownStep,
    UnknownWorkflow,
)
from pipeline.workflow.events import QUIET_S, Hub, Watch
from pipeline.workflow.history import fold
from pipeline.workflow.journal import Journal, Left, Registered, RunRecord
from pipeline.workflow.library import Definitions, Prepared, aside, split
from pipeline.workflow.plan import Plan, named_routes
from pipeline.workflow.showing import VALUE_MAX, place, shown, step_view, summary
from pipeline.workflow.source import Media
from pipeline.workflow.states import RunState
from pipeline.workflow.views import RunList, RunSummary, RunView, StartRun, StepView, WorkflowSummary, WorkflowView

_ENTRY = 200  # bytes of an entry that counts when it is decided where it is read
TAKEN = frozenset({"validate"})  # names that the API's own paths have
OPENING_S = 5.0  # that a request waits for the journal to be opened


class Service:
    """The one door to an engine and its journal; to be used from their event loop. All methods raise `JournalFailed`;
    those that change a run raise `UnknownRun`, `Conflict`, and `Elsewhere` where another process executes it.
    `unavailable`: why nothing can be asked yet, for who asks from outside; `tried` is set once that is known."""

    def __init__(self, journal: Journal, engine: Engine, definitions: Definitions, hub: Hub) -> None:
        self._journal = journal
        self._engine = engine
        self._definitions = definitions
        self._hub = hub
        self.unavailable = ""
        self.tried = asyncio.Event()

    async def check(self) -> None:
        """Waits a moment for a journal that is being opened. Raises `JournalFailed` where nothing can be asked yet."""
        if self.unavailable and not self.tried.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.tried.wait(), OPENING_S)
        if self.unavailable:
            raise JournalFailed(self._engine.trouble or self.unavailable)

    # Workflows.

    async def validate(self, text: bytes, media: Media) -> list[Fault]:
        """All that is wrong with a definition; `media` is `json` or `yaml`."""
        return await self._definitions.faults(text, media)

    async def register(self, text: bytes, media: Media, caller: str) -> tuple[WorkflowView, bool]:  # noqa: ARG002
        """What is registered then, and whether it is new. Raises `DefinitionRefused`, `VersionTaken`."""
        made = await self._definitions.prepared(text, media)
        definition = made.definition
        if definition.name in TAKEN:
            raise DefinitionRefused([Fault("name", f"no workflow of this name can be registered: {definition.name!r}")])
        asked = Registered(
            definition.name,
            definition.version,
            sha256(made.bundle.main).hexdigest(),
            time.time(),
            definition.description,
            text.decode(),
            made.bundle,
        )
        registered = await self._journal.register(asked)
        return _workflow(registered), registered.created_at == asked.created_at

    async def workflows(self) -> list[WorkflowSummary]:
        return [
            WorkflowSummary(
                name=one.name,
                version=one.version,
                digest=one.digest,
                created_at=one.created_at,
                description=one.description,
            )
            for one in await self._journal.workflows()
        ]

    async def workflow(self, name: str, version: str | None) -> WorkflowView:
        """None as version: the newest. Raises `UnknownWorkflow`."""
        return _workflow(await self._registered(name, version))

    # Runs.

    def new_id(self, caller: str, idempotency_key: str | None) -> str:
        """Of a run to be started. The same key of the same caller makes the same id, so that all shards agree on whose
        run it is; any other is a UUID of version 7 (RFC 9562, 5.7): ordered by time, and not to be guessed."""
        if idempotency_key is None:
            return f"run_{_uuid7()}"
        return f"run_{sha256(msgspec.json.encode((caller, idempotency_key))).hexdigest()[:32]}"

    async def start(
        self,
        asked: StartRun,
        caller: str,
        priority: int,
        idempotency_key: str | None = None,
        *,
        run_id: str | None = None,
        routes: Collection[str] | None = None,
        size: int = 0,
    ) -> tuple[RunSummary, bool]:
        """The run, and whether it is new. `size`: bytes of the request. `routes` are those that the caller may use,
        None: all. Raises `DefinitionRefused`, `InputRefused`, `UnknownWorkflow`, `Conflict`, `TooManyRuns`,
        `InvalidRequest`, `Forbidden` where a step names another route."""
        run_id = run_id or self.new_id(caller, idempotency_key)
        digest = await aside(size, lambda: sha256(msgspec.json.encode(asked, order="sorted")).hexdigest())
        if idempotency_key is not None and (known := await self._journal.run(run_id, whole=False)) is not None:
            if known.request_digest != digest:
                raise Conflict("The Idempotency-Key came before with another request", param="Idempotency-Key")
            return summary(known), False
        made = await self._asked_for(asked)
        if routes is not None:
            _check_routes(made.plan, routes)
        given = await aside(size, lambda: inputs.check(made.definition, asked.inputs))
        now = time.time()
        record = RunRecord(
            run_id,
            made.definition.name,
            made.definition.version,
            made.bundle.digest,
            RunState.PENDING,
            now,
            now,
            caller=caller,
            priority=priority,
            inputs=given,
            idempotency_key=idempotency_key,
            request_digest=digest,
            options=_options(asked),
        )
        run = await self._engine.submit(record, made.bundle)
        return summary(run), run.created_at == now

    async def run(self, run_id: str, caller: str, *, whole: bool = False) -> RunView:
        """With its steps; `whole` with inputs and outputs of any size. Raises `UnknownRun`."""
        record = await self._own(run_id, caller, whole=True)
        entries = await self._journal.outline(run_id, VALUE_MAX)
        return await aside(len(entries) * _ENTRY, lambda: shown(record, entries, whole=whole))

    async def step(self, run_id: str, caller: str, path: str) -> StepView:
        """One step of a run, with all that it came to. Raises `UnknownRun`, `UnknownStep`."""
        await self._own(run_id, caller)
        entries = await self._journal.outline(run_id, 0)
        history = await aside(len(entries) * _ENTRY, lambda: fold(entries))
        step, number = history.steps.get(path), place(entries, path)
        if step is None:
            raise UnknownStep(f"There is no step {path[:300]!r} in this run, or not yet", param="path")
        if isinstance(step.value, Left) and number is not None:
            (completed,) = await self._journal.entries(run_id, number - 1, 1)
            step.value = getattr(completed.entry, "value", None)
            step.fields = getattr(completed.entry, "fields", {})
        return step_view(step)

    async def runs(
        self,
        caller: str,
        *,
        workflow: str | None = None,
        states: Sequence[RunState] = (),
        limit: int = 100,
        after: str | None = None,
    ) -> RunList:
        """The caller's, the newest first. `after`: a page's `next`."""
        page = await self._journal.runs(caller=caller, workflow=workflow, states=states, limit=limit, after=after)
        return RunList([summary(record) for record in page.runs], page.next)

    async def pause(self, run_id: str, caller: str) -> RunSummary:
        await self._own(run_id, caller)
        return summary(await self._engine.pause(run_id))

    async def resume(self, run_id: str, caller: str) -> RunSummary:
        await self._own(run_id, caller)
        return summary(await self._engine.resume(run_id))

    async def cancel(self, run_id: str, caller: str, because: str = "") -> RunSummary:
        await self._own(run_id, caller)
        return summary(await self._engine.cancel(run_id, because))

    async def retry(self, run_id: str, caller: str, step: str | None = None) -> RunSummary:
        await self._own(run_id, caller)
        return summary(await self._engine.retry(run_id, step))

    async def signal(self, run_id: str, caller: str, event: str, payload: object = None) -> RunSummary:
        await self._own(run_id, caller)
        return summary(await self._engine.signal(run_id, event, payload))

    async def finished(self, run_id: str, caller: str) -> RunView:
        """The run, once it has ended; it is executed here."""
        await self._own(run_id, caller)
        await self._engine.finished(run_id)
        return await self.run(run_id, caller, whole=True)

    # Watching.

    async def watching(
        self, run_id: str, caller: str, after: int = 0, *, here: bool = False, quiet: float = QUIET_S
    ) -> Watch | None:
        """All that happened after entry number `after`, and what happens (see `Watch`, which is to be closed); None
        where that is nothing, and never will be. Raises `Elsewhere`, unless it is to be told of `here` all the same,
        and `TooManyWatchers`."""
        self._hub.check(run_id)
        record = await self._own(run_id, caller)
        if not here and record.holder not in {"", self._journal.holder} and not record.state.final:
            raise Elsewhere(record.holder)
        if record.state.final and after >= record.last:
            return None
        return self._hub.watch(record, after, quiet)

    async def _own(self, run_id: str, caller: str, *, whole: bool = False) -> RunRecord:
        """Raises `UnknownRun` for another's as for one that there never was."""
        record = await self._journal.run(run_id, whole=whole)
        if record is None or record.caller != caller:
            _unknown(run_id)
        return record

    async def _registered(self, name: str, version: str | None) -> Registered:
        found = await self._journal.workflow(name, version)
        if found is None:
            what = name if version is None else f"{name}@{version}"
            raise UnknownWorkflow(f"There is no workflow {what[:300]!r}", param="workflow")
        return found

    async def _asked_for(self, asked: StartRun) -> Prepared:
        if (asked.workflow is None) == (asked.definition is None):
            raise InvalidRequest("Send either 'workflow' or 'definition'.", param="workflow")
        if asked.definition is not None:
            return await self._definitions.prepared(msgspec.json.encode(asked.definition), "json")
        registered = await self._registered(*split(asked.workflow or ""))
        return await self._definitions.known(registered.bundle)


def _check_routes(plan: Plan, routes: Collection[str]) -> None:
    """Before anything is spent. Raises `Forbidden`. What a template names is looked at when it is known."""
    for path, route in named_routes(plan.graph):
        if route not in routes:
            raise Forbidden(f"This API key may not use the route {route!r}, which the step {path} names", param=path)


def _unknown(run_id: str) -> NoReturn:
    raise UnknownRun(f"There is no run {run_id[:128]!r}", param="id")


def _workflow(registered: Registered) -> WorkflowView:
    return WorkflowView(
        name=registered.name,
        version=registered.version,
        digest=registered.digest,
        created_at=registered.created_at,
        description=registered.description,
        source=registered.source,
        definition=registered.bundle.main,
    )


def _options(asked: StartRun) -> dict[str, Any]:
    given = {"max_concurrency": asked.max_concurrency, "metadata": asked.metadata}
    return {name: value for name, value in given.items() if value}


def _uuid7() -> str:
    """As 32 digits."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76
    return f"{number & ~(0x3 << 62) | 0x2 << 62:032x}"
