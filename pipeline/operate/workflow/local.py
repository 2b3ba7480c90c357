"""A run in this process: pipeline, engine and journal for as long as it takes, with no daemon and no key."""

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from config.schema import Config
from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.core.errors import HeadgateError
from pipeline.core.outcomes import Priority
from pipeline.core.ports import Hooks
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Disconnected
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.process import serve
from pipeline.knowledge.workflow import local_collections
from pipeline.operate.workflow import exits
from pipeline.operate.workflow.files import FileLibrary, configured
from pipeline.operate.workflow.logs import log_to_stderr
from pipeline.operate.workflow.shown import Show
from pipeline.wiring import build
from pipeline.wiring.workflows import Workflows, build_workflows
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import InputRefused, JournalFailed
from pipeline.workflow.journal import Journal, RunRecord
from pipeline.workflow.service import Service
from pipeline.workflow.states import RunState
from pipeline.workflow.views import RunSummary, RunView, StartRun, Token

_ANYBODY = "-"  # as a daemon calls those who come without a key


class Local(NamedTuple):
    """What to run: a definition, or the run `resume` of the `journal`. `folder` is where called workflows are looked
    for."""

    definition: Definition | None
    folder: Path
    inputs: dict[str, Any]
    config_file: Path | None
    journal: Path | None
    resume: str | None
    max_concurrency: int | None


def run(what: Local, show: Show) -> RunView:
    """The run as it ended. Raises `exits.Ended` and ConfigError."""
    log_to_stderr()
    if what.journal is not None and not what.journal.absolute().parent.is_dir():
        reason = f"there is no folder {what.journal.parent}"
        raise exits.Ended(f"the journal {what.journal} cannot be opened: {reason}", exits.UNREACHABLE)
    try:
        return asyncio.run(_run(what, show))
    except InputRefused as error:
        raise exits.refused(error.faults) from error
    except JournalFailed as error:
        raise exits.Ended(error.message, exits.UNREACHABLE) from error
    except HeadgateError as error:
        raise exits.Ended(error.message, exits.REFUSED) from error


async def _run(what: Local, show: Show) -> RunView:
    async with AsyncExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-")))
        known = None if what.resume is None else await _known(what)
        if known is not None and known[0].state.final:
            return _view(known[0])
        trees = known[1] if known is not None else await _trees(what)
        data_dir = temporary if what.journal is None else Path(f"{what.journal}.collections")
        config = configured(what.config_file, trees, data_dir, durable=what.journal is not None)
        own = set() if what.resume is None else {what.resume}
        service = (await _opened(stack, config, what, own)).service
        caller = _ANYBODY if known is None else known[0].caller
        run_id = await _begun(service, what, caller, known, own)
        if what.journal is not None:
            again = f"headgate workflow run --journal {what.journal} --resume {run_id}"
            print(f"run {run_id}; should it be interrupted: {again}", file=sys.stderr, flush=True)  # noqa: T201
        with show, _interruptible(service, run_id, caller):
            await _shown(service, run_id, caller, show)
            return await service.run(run_id, caller)


async def _opened(stack: AsyncExitStack, config: Config, what: Local, own: set[str]) -> Workflows:
    """Everything that a run needs. What ends it is put on the stack. `own` are the runs that are ours."""
    if any(section.store != "memory" for section in config.collections):
        await stack.enter_async_context(_knowledge(config))
    collections = await stack.enter_async_context(local_collections(config))
    pipeline = await build(config, hooks=Hooks(), retriever=collections)
    await pipeline.start()
    stack.push_async_callback(pipeline.aclose)
    workflows = build_workflows(
        config,
        pipeline,
        journal=_journal(what.journal, config),
        mine=own.__contains__,
        collections=collections,
        library=FileLibrary(what.folder),
    )
    stack.push_async_callback(workflows.stop)
    await workflows.start()
    return workflows


@asynccontextmanager
async def _knowledge(config: Config) -> AsyncIterator[None]:
    """Who serves the collections on disk: a daemon that runs, else this process until one starts."""
    client = KnowledgeClient(Path(config.server.data_dir) / SOCKET)
    try:
        await client.connect()
    except Disconnected:
        async with _serving(config):
            yield
    else:
        yield
    finally:
        await client.aclose()


@asynccontextmanager
async def _serving(config: Config) -> AsyncIterator[None]:
    ready, stopping = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve(config, ready=ready.set, stopping=stopping, temporary=True))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield
    finally:
        stopping.set()
        await serving


async def _begun(
    service: Service, what: Local, caller: str, known: tuple[RunRecord, list[Any]] | None, own: set[str]
) -> str:
    if known is not None:
        if known[0].state is RunState.PAUSED:
            await service.resume(known[0].id, caller)
        return known[0].id
    asked = StartRun(
        definition=msgspec.to_builtins(what.definition), inputs=what.inputs, max_concurrency=what.max_concurrency
    )
    run_id = service.new_id(caller, None)
    own.add(run_id)
    await service.start(asked, caller, Priority.NORMAL, run_id=run_id)
    return run_id


async def _shown(service: Service, run_id: str, caller: str, show: Show) -> None:
    """Until the run has ended."""
    watch = await service.watching(run_id, caller, here=True)
    if watch is None:
        return
    try:
        async for events in watch:
            for event in events:
                if isinstance(event.entry, Token):
                    show.text(event.entry.path, event.entry.attempt, event.entry.text)
                else:
                    show.entry(event.entry)
    finally:
        watch.close()


class _interruptible:  # noqa: N801 - used as a function
    """Ctrl-C and SIGTERM cancel the run; a second one ends the process at once."""

    def __init__(self, service: Service, run_id: str, caller: str) -> None:
        self._cancel = partial(service.cancel, run_id, caller, "interrupted")
        self._cancelling: asyncio.Future[RunSummary] | None = None

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupted)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _interrupted(self) -> None:
        self._cancelling = asyncio.ensure_future(self._cancel())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)


def _journal(file: Path | None, config: Config) -> Journal:
    section = config.workflows
    if file is None:
        return MemoryJournal(lease_seconds=section.lease_ms / 1000)
    return SqliteJournal(
        file,
        shard=0,
        synchronous=section.synchronous,
        lease_seconds=section.lease_ms / 1000,
        inline_bytes=section.inline_value_bytes,
    )


async def _known(what: Local) -> tuple[RunRecord, list[Any]]:
    """The run that is to go on, and the definitions that it executes. Raises `exits.Ended`."""
    file = what.journal or Path()
    if not file.is_file():
        raise exits.Ended(f"there is no journal {file}", exits.REFUSED)
    journal = _journal(file, msgspec.convert(_NOTHING, Config))
    await journal.open()
    try:
        record = await journal.run(what.resume or "")
        if record is None:
            page = await journal.runs(limit=5)
            newest = ", ".join(one.id for one in page.runs) or "none"
            raise exits.Ended(f"{file} has no run {what.resume!r} (its newest: {newest})", exits.REFUSED)
        bundle = await journal.bundle(record.bundle)
        return record, [msgspec.json.decode(one) for one in (bundle.main, *bundle.others.values())]
    finally:
        await journal.aclose()


async def _trees(what: Local) -> list[Any]:
    from pipeline.workflow.checking import resolve  # noqa: PLC0415 - with what it brings along

    if what.definition is None:
        return []
    others = await resolve(what.definition, FileLibrary(what.folder))
    return [msgspec.to_builtins(one) for one in (what.definition, *others.values())]


def _view(record: RunRecord) -> RunView:
    """Of a run that has ended: nothing is to be done."""
    return RunView(
        id=record.id,
        workflow=record.workflow,
        version=record.version,
        state=record.state,
        created_at=record.created_at,
        updated_at=record.updated_at,
        error=record.error,
        inputs=record.inputs,
        outputs=record.outputs,
        last=record.last,
    )


_NOTHING = {"workers": [{"name": "echo", "kind": "echo"}], "routes": [{"name": "echo", "worker": "echo"}]}
