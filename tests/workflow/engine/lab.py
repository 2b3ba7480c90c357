"""An engine over a journal in memory, whose `llm` steps do what their prompts say.

A prompt is a name of `Lab.script`, or else the step's value. What was done is in `Lab.done`, in order.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from config.schema import WorkflowsSection
from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.bundling import planned
from pipeline.workflow.definition import Definition
from pipeline.workflow.engine import Engine
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.history import History, fold
from pipeline.workflow.journal import AnyEntry, Bundle, Journal, Numbered, RunRecord
from pipeline.workflow.plans import Plans
from pipeline.workflow.ports import Kind, Result, StepContext
from pipeline.workflow.states import RunState

Play = Callable[[StepContext], Any]  # its value, or an awaitable of it


def bundle_of(definition: Definition, **others: Definition) -> Bundle:
    main = msgspec.json.encode(definition)
    rest = {name: msgspec.Raw(msgspec.json.encode(other)) for name, other in others.items()}
    return Bundle(sha256(main + repr(others).encode()).hexdigest(), msgspec.Raw(main), rest)


class Eyes:
    """Sees all entries, and that they come in order and once."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Numbered]] = {}
        self.texts: list[tuple[str, str, int, str]] = []
        self.on_entry: Callable[[str, AnyEntry], None] = lambda _run, _entry: None

    def entries(self, run_id: str, entries: Sequence[Numbered]) -> None:
        seen = self.seen.setdefault(run_id, [])
        for one in entries:
            assert not seen or one.number > seen[-1].number
            seen.append(one)
            self.on_entry(run_id, one.entry)

    def text(self, run_id: str, path: str, attempt: int, text: str) -> None:
        self.texts.append((run_id, path, attempt, text))


class Lab:
    def __init__(self, journal: Journal, section: WorkflowsSection, script: Mapping[str, Play]) -> None:
        self.script = dict(script)
        self.done: list[str] = []
        self.began: list[str] = []
        self.eyes = Eyes()
        self.journal = journal
        self.section = section
        self.engine = Engine(
            journal,
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            section,
            plans=Plans(planned),
            kinds={"llm": Kind(self.play)},
            watcher=self.eyes,
        )
        self._made = 0

    async def play(self, step: Any, context: StepContext) -> Result:
        prompt = context.value("prompt")
        self.began.append(context.path)
        play = self.script.get(prompt) if isinstance(prompt, str) else None
        value = prompt if play is None else play(context)
        if asyncio.iscoroutine(value):
            value = await value
        self.done.append(context.path)
        return value if isinstance(value, Result) else Result(value, {"text": value, "model": "m"})

    async def submit(
        self, definition: Definition, inputs: Any = None, run_id: str | None = None, others: Any = (), **options: Any
    ) -> str:
        bundle = bundle_of(definition, **dict(others))
        self._made += 1
        run_id = run_id or f"run{self._made}"
        now = time.time()
        record = RunRecord(
            run_id, definition.name, "1", bundle.digest, RunState.PENDING, now, now, inputs=inputs or {},
            options=options,
        )  # fmt: skip
        await self.engine.submit(record, bundle)
        return run_id

    async def run(self, definition: Definition, inputs: Any = None, **options: Any) -> tuple[RunRecord, History]:
        """To its end."""
        return await self.end(await self.submit(definition, inputs, **options))

    async def end(self, run_id: str) -> tuple[RunRecord, History]:
        record = await asyncio.wait_for(self.engine.finished(run_id), 20)
        return record, await self.history(run_id)

    async def history(self, run_id: str) -> History:
        return fold(await self.journal.entries(run_id))

    async def until(self, run_id: str, *states: RunState) -> RunRecord:
        """The run has come to one of these states, and has left the memory."""
        async with asyncio.timeout(20):
            while True:
                record = await self.journal.run(run_id)
                if record is not None and record.state in states and not record.holder:
                    return record
                await asyncio.sleep(0.005)


def section(**settings: Any) -> WorkflowsSection:
    return WorkflowsSection(**{"journal": "memory", **settings})


@contextlib.asynccontextmanager
async def lab(
    script: Mapping[str, Play] | None = None,
    *,
    book: Book | None = None,
    journal: Journal | None = None,
    **settings: Any,
) -> AsyncIterator[Lab]:
    journal = journal or MemoryJournal(book=book)
    await journal.open()
    made = Lab(journal, section(**settings), script or {})
    await made.engine.start()
    try:
        yield made
    finally:
        await made.engine.stop()
        await journal.aclose()


def fails(kind: str = "broken", *, retryable: bool = False, retry_after: float | None = None) -> Play:
    def play(_: StepContext) -> Any:
        raise StepFailed(kind, "it is broken", retryable=retryable, retry_after=retry_after)

    return play


def flaky(times: int, value: Any = "at last") -> Play:
    """Fails so many times, retryably; each step for itself."""
    failed: dict[str, int] = {}

    def play(context: StepContext) -> Any:
        failed[context.path] = failed.get(context.path, 0) + 1
        if failed[context.path] <= times:
            raise StepFailed("flaky", "not yet", retryable=True)
        return value

    return play


class Gate:
    """A step that waits to be let go."""

    def __init__(self, value: Any = "let go") -> None:
        self.value = value
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, _: StepContext) -> Any:
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.value
