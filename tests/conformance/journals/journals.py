"""Journals over one place, as several processes have them."""

from pathlib import Path

import msgspec

from pipeline.adapters.journals.holders import new_token
from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.workflow.journal import RUN_MAX, Bundle, Journal, Registered, RunRecord, StepCompleted
from pipeline.workflow.states import RunState

BUNDLE = Bundle("b" * 64, msgspec.Raw(b'{"name":"greet","steps":[]}'), {"other": msgspec.Raw(b'{"name":"other"}')})
LEASE_SECONDS = 10.0
INLINE_BYTES = 256


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


class Journals:
    """Opens journals that share a place and a clock."""

    run_max = RUN_MAX

    def __init__(self, kind: str, folder: Path) -> None:
        self.clock = Clock()
        self._kind = kind
        self._folder = folder
        self._book = Book()
        self._opened: list[Journal] = []

    async def open(self, shard: int = 0) -> Journal:
        journal = self._made(shard)
        await journal.open()
        self._opened.append(journal)
        return journal

    async def aclose(self) -> None:
        for journal in self._opened:
            await journal.aclose()

    def _made(self, shard: int) -> Journal:
        if self._kind == "memory":
            return MemoryJournal(
                lease_seconds=LEASE_SECONDS,
                holder=new_token(shard),
                now=self.clock,
                book=self._book,
                run_max=self.run_max,
            )
        return SqliteJournal(
            self._folder / "workflows.db",
            shard=shard,
            synchronous="normal",
            lease_seconds=LEASE_SECONDS,
            inline_bytes=INLINE_BYTES,
            now=self.clock,
            run_max=self.run_max,
        )


def record(run_id: str = "r1", **fields) -> RunRecord:
    given = {
        "workflow": "greet",
        "version": "1",
        "bundle": BUNDLE.digest,
        "state": RunState.PENDING,
        "created_at": 1000.5,
        "updated_at": 1000.5,
        "inputs": {"name": "Ada"},
        "options": {"max_concurrency": 2},
    }
    return RunRecord(run_id, **(given | fields))


def registered(version: str = "1", digest: str = "d1", name: str = "greet") -> Registered:
    return Registered(name, version, digest, 1000.0, "Greets", f"name: {name}\n", BUNDLE)


def completed(path: str = "draft", value="hello", at: float = 1001.0, **fields) -> StepCompleted:
    return StepCompleted(at, path, value, **fields)
