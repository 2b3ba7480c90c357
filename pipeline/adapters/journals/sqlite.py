"""The journal in an SQLite file that the shards of a machine share.

One thread writes, with everything that waits in one transaction: a commit for many appends costs little more than one
for a single append. Another one reads. Nothing of it happens in the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.adapters.journals import codec, pages, sqlite_reads
from pipeline.adapters.journals.holders import Holders, new_token
from pipeline.adapters.journals.sqlite_database import Database, Place
from pipeline.adapters.journals.sqlite_jobs import (
    Append,
    Check,
    Claim,
    Create,
    Doom,
    Draft,
    Job,
    Purge,
    Register,
    Release,
    Shrink,
    drafted,
)
from pipeline.adapters.journals.sqlite_reader import Read, Reader
from pipeline.adapters.journals.sqlite_values import made_of
from pipeline.adapters.journals.sqlite_writer import Writer
from pipeline.adapters.journals.turns import Turn
from pipeline.adapters.journals.worker import Worker
from pipeline.workflow.errors import JournalFailed, UnknownWorkflow
from pipeline.workflow.journal import (
    RUN_MAX,
    AnyEntry,
    Bundle,
    Lease,
    Numbered,
    Page,
    Registered,
    RunRecord,
    StateChanged,
)
from pipeline.workflow.states import RunState

PATIENCE = 5.0  # seconds that a writer waits for others' locks
_DOOMED_AT_ONCE = 50  # runs whose rows go in one transaction
_LARGE = 1 << 20  # bytes of an entry
_SHRINKS = 1024  # rounds of giving pages back at one `expire`


class SqliteJournal:
    """See `pipeline.workflow.journal.Journal`. The file is made where there is none, its folder is not.

    `shard` is this process' number among those that share the file. `synchronous`: `normal` keeps every append through
    the end of the process, `full` through a power cut too. Values larger than `inline_bytes`, encoded, are stored
    apart. Beside the file is the folder `<file>.holders`, which belongs to it.
    """

    def __init__(
        self,
        path: Path,
        *,
        shard: int,
        synchronous: Literal["normal", "full"],
        lease_seconds: float,
        inline_bytes: int,
        now: Callable[[], float] = time.time,
        patience: float = PATIENCE,
        run_max: int = RUN_MAX,
    ) -> None:
        path = path.absolute()
        folder = path.with_name(f"{path.name}.holders")
        place = Place(path)
        self.holder = new_token(shard)
        self._holders = Holders(folder, self.holder, lease_seconds, now)
        database = Database(place, synchronous, patience, writes=True)
        writer = Writer(
            database, self._holders, Turn(folder), inline_bytes=inline_bytes, patience=patience, run_max=run_max
        )
        reader = Reader(Database(place, synchronous, patience, writes=False))
        self._writing = Worker("journal-writer", writer.handle, writer.close)
        self._reading = Worker("journal-reader", reader.handle, reader.close)
        self._returning: set[asyncio.Task[Any]] = set()

    # Its life.

    async def open(self) -> None:
        self._writing.start()
        self._reading.start()
        try:
            await self._write(Check())
            await self._read(sqlite_reads.counts)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, JournalFailed):  # for those who ask while it is closed
                self._reading.because = self._writing.because = error.message
            raise

    async def aclose(self) -> None:
        await asyncio.gather(*self._returning, return_exceptions=True)
        # First who reads: the last to close folds the log into the file.
        await self._reading.stop()
        await self._writing.stop()

    # Workflows.

    async def register(self, workflow: Registered) -> Registered:
        found: Registered = await self._write(Register(codec.clean_texts(workflow)))
        return found

    async def workflow(self, name: str, version: str | None) -> Registered | None:
        version = None if version is None else codec.clean_text(version)
        found: Registered | None = await self._read(
            lambda connection: sqlite_reads.workflow(connection, codec.clean_text(name), version)
        )
        return found

    async def workflows(self) -> list[Registered]:
        found: list[Registered] = await self._read(sqlite_reads.workflows)
        return found

    async def bundle(self, digest: str) -> Bundle:
        found: Bundle | None = await self._read(lambda connection: sqlite_reads.bundle(connection, digest))
        if found is None:
            raise UnknownWorkflow(f"There is no bundle {digest!r}")
        return found

    # Runs.

    async def create(self, run: RunRecord, bundle: Bundle, *, take: bool) -> tuple[RunRecord, Lease | None]:
        job = create_job(run, bundle, take=take)
        created: tuple[RunRecord, Lease | None] = await self._take(job, lambda result: [result[1]])
        return created

    async def run(self, run_id: str, *, whole: bool = True) -> RunRecord | None:
        reading = partial(sqlite_reads.run, run_id=codec.clean_text(run_id), whole=whole)
        found: RunRecord | None = await self._read(reading)
        return found

    async def runs(
        self,
        *,
        caller: str | None = None,
        workflow: str | None = None,
        states: Sequence[RunState] = (),
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        before = pages.place_of(after)
        caller = None if caller is None else codec.clean_text(caller)
        workflow = None if workflow is None else codec.clean_text(workflow)

        reading = partial(
            sqlite_reads.page, caller=caller, workflow=workflow, states=states, limit=limit + 1, before=before
        )
        found: list[tuple[int, RunRecord]] = await self._read(reading)
        more = len(found) > limit
        found = found[:limit]
        return Page([run for _, run in found], pages.cursor(found[-1][0]) if more and found else None)

    async def entries(
        self, run_id: str, after: int = 0, limit: int | None = None, *, most: int | None = None
    ) -> list[Numbered]:
        run_id = codec.clean_text(run_id)
        found: list[Numbered] = await self._read(
            lambda connection: sqlite_reads.entries(connection, run_id, after, limit, most)
        )
        return found

    async def outline(self, run_id: str, most: int) -> list[Numbered]:
        run_id = codec.clean_text(run_id)
        found: list[Numbered] = await self._read(lambda connection: sqlite_reads.outline(connection, run_id, most))
        return found

    async def histories(self, run_ids: Sequence[str]) -> dict[str, list[Numbered]]:
        ids = [codec.clean_text(run_id) for run_id in run_ids]
        found: dict[str, list[Numbered]] = await self._read(lambda connection: sqlite_reads.histories(connection, ids))
        return found

    async def counts(self) -> dict[RunState, int]:
        found: dict[RunState, int] = await self._read(sqlite_reads.counts)
        return found

    async def append(self, lease: Lease, entries: Sequence[AnyEntry]) -> int:
        drafts = await _drafts(entries)
        last: int = await self._write(Append(codec.clean_text(lease.run), lease.holder, lease.epoch, drafts))
        return last

    async def post(self, run_id: str, entries: Sequence[AnyEntry]) -> int:
        drafts = await _drafts(entries)
        last: int = await self._write(Append(codec.clean_text(run_id), None, 0, drafts))
        return last

    # Leases.

    def alive(self, holder: str) -> bool:
        return self._holders.alive(holder)

    async def claim(self, run_id: str) -> Lease | None:
        claimed = await self._take(Claim([codec.clean_text(run_id)]), _leases)
        return claimed[0][1] if claimed else None

    async def claim_many(self, limit: int, *, due: float, mine: Callable[[str], bool]) -> list[tuple[RunRecord, Lease]]:
        dead = await self._dead()
        claimed: list[tuple[RunRecord, Lease]] = []
        after, asked = 0, max(limit, 256)
        while len(claimed) < limit:
            found = await self._read(
                partial(sqlite_reads.candidates, dead=dead, due=due, after=after, limit=asked),
            )
            wanted = [(seq, run_id) for seq, run_id in found if mine(run_id)][: limit - len(claimed)]
            if wanted:
                claimed += await self._take(Claim([run_id for _, run_id in wanted], due), _leases)
            if len(found) < asked:
                break
            after = found[-1][0]
        return claimed

    async def next_due(self) -> float | None:
        dead = await self._dead()
        found: float | None = await self._read(lambda connection: sqlite_reads.next_due(connection, dead))
        return found

    async def release(self, lease: Lease) -> None:
        if lease.holder == self.holder:
            await self._write(Release(codec.clean_text(lease.run), lease.epoch))

    async def renew(self) -> None:
        try:
            # Not in the threads: they may be waiting for a lock.
            await asyncio.to_thread(self._holders.renew)
        except OSError as error:
            raise JournalFailed(f"The leases in {self._holders.folder} cannot be renewed: {error}") from error

    # Upkeep.

    async def expire(self, before: float, limit: int = 1000) -> int:
        gone = 0
        while gone < limit:
            asked = min(_DOOMED_AT_ONCE, limit - gone)
            doomed = await self._write(Doom(before, asked))
            gone += doomed
            if doomed < asked:
                break
        while await self._write(Purge()):
            pass
        for _ in range(_SHRINKS):
            if not await self._write(Shrink()):
                break
        return gone

    # The threads.

    async def _write(self, job: Job) -> Any:
        return await self._writing.do(job)

    async def _read(self, reading: Read) -> Any:
        return await self._reading.do(reading)

    async def _dead(self) -> list[str]:
        def reading(connection: Any) -> list[str]:
            return self._holders.dead(sqlite_reads.holders(connection))

        dead: list[str] = await self._read(reading)
        return dead

    async def _take(self, job: Job, leases: Callable[[Any], Sequence[Lease | None]]) -> Any:
        """Leases that nobody waits for any more when they come are given back."""
        asking = asyncio.ensure_future(self._write(job))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            task = asyncio.ensure_future(self._give_back(asking, leases))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            raise

    async def _give_back(self, asking: asyncio.Future[Any], leases: Callable[[Any], Sequence[Lease | None]]) -> None:
        for lease in leases(await asking):
            if lease is not None:
                await self.release(lease)


async def _drafts(entries: Sequence[AnyEntry]) -> list[Draft]:
    """Raises `ValueError`. Between large ones others have their turn."""
    drafts: list[Draft] = []
    for entry in entries:
        drafts.append(drafted(entry))
        if len(drafts[-1].data) > _LARGE:
            await asyncio.sleep(0)
    return drafts


def _leases(claimed: list[tuple[RunRecord, Lease]]) -> list[Lease]:
    return [lease for _, lease in claimed]


def create_job(run: RunRecord, bundle: Bundle, *, take: bool) -> Create:
    """Raises `ValueError` where inputs or options are not JSON."""
    run = codec.clean_texts(run)
    inputs = None if run.inputs is None else codec.encode(run.inputs)
    first = drafted(StateChanged(run.created_at, run.state, "", run.outputs, run.error, run.wake_at))
    return Create(run, made_of(run), inputs, first, bundle, take)
