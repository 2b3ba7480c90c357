"""The engine as the daemon has it, in this process: real pipeline with `echo`, real journal."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.workflows.kinds import KINDS
from config.schema import Config, WorkflowsSection
from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.core.ports import Hooks
from pipeline.process.shard import GC_THRESHOLD
from pipeline.wiring import Pipeline, build
from pipeline.wiring.workflows import Workflows, build_workflows
from pipeline.workflow.journal import Journal
from pipeline.workflow.views import RunSummary, StartRun

CONFIG = {
    "workers": [{"name": "echo", "kind": "echo", "first_token_ms": 0, "tokens_per_s": 0}],
    "routes": [{"name": "echo", "worker": "echo"}],
    "stages": {"inference": {"concurrency": 256}},
    "workflows": {"max_executing": 20_000, "max_steps": 20_000, "max_runs": 100_000},
}


CALLER = "-"


class Bench:
    """A pipeline and an engine that run."""

    def __init__(self, pipeline: Pipeline, workflows: Workflows) -> None:
        self.pipeline = pipeline
        self.workflows = workflows

    async def register(self, definition: dict[str, Any]) -> str:
        """What runs of it are started by: read and checked once, as workflows that are run often are."""
        view, _ = await self.workflows.service.register(msgspec.json.encode(definition), "json", CALLER)
        return f"{view.name}@{view.version}"

    async def start(self, workflow: str | dict[str, Any]) -> RunSummary:
        """By its name, or by a definition that comes with the request, and is read and checked with it."""
        body = StartRun(workflow=workflow) if isinstance(workflow, str) else StartRun(definition=workflow)
        record, _ = await self.workflows.service.start(body, CALLER, 2, None)
        return record

    async def run(self, workflow: str | dict[str, Any]) -> str:
        """Returns how it ended."""
        record = await self.start(workflow)
        return (await self.workflows.engine.finished(record.id)).state


def journal(kind: str, folder: Path, section: WorkflowsSection) -> Journal:
    if kind == "memory":
        return MemoryJournal(lease_seconds=section.lease_ms / 1000, holder="0:0:bench")
    return SqliteJournal(
        folder / "workflows.db",
        shard=0,
        synchronous=section.synchronous,
        lease_seconds=section.lease_ms / 1000,
        inline_bytes=section.inline_value_bytes,
    )


@asynccontextmanager
async def running(kind: str, folder: Path) -> AsyncIterator[Bench]:
    config = msgspec.convert(CONFIG, Config)
    pipeline = await build(config, hooks=Hooks())
    await pipeline.start()
    workflows = build_workflows(config, pipeline, journal=journal(kind, folder, config.workflows), kinds=KINDS)
    await workflows.start()
    try:
        with _collecting():
            yield Bench(pipeline, workflows)
    finally:
        await workflows.stop(0.0)
        await pipeline.aclose()


@contextmanager
def _collecting() -> Iterator[None]:
    """Garbage as a shard does it."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def chain(steps: int, name: str = "chain") -> dict[str, Any]:
    """`llm` steps, each of which has the answer of the one before in its prompt."""
    first = {"id": "s0", "type": "llm", "route": "echo", "prompt": "{{ inputs.text }}"}
    rest = [
        {"id": f"s{n}", "type": "llm", "route": "echo", "prompt": f"{{{{ steps.s{n - 1}.text }}}}"}
        for n in range(1, steps)
    ]
    return {
        "name": name,
        "inputs": {"text": {"type": "string", "default": "five words make one prompt"}},
        "steps": [first, *rest],
    }


async def many(count: int, at_once: int, one: Any) -> Sequence[Any]:
    """Calls `one()` `count` times, so many at once."""
    results: list[Any] = []
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            results.append(await one())  # noqa: PERF401 - `extend` would hold the results back until all are there

    await asyncio.gather(*(lane() for _ in range(at_once)))
    return results


def resident() -> int:
    """Bytes that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def clock() -> float:
    return time.perf_counter()
