"""The journal in memory: for local runs and tests. It ends with its process.

Entries are kept encoded, as the other journal has them: what is handed in may be changed afterwards, and what cannot be
kept is refused here too.
"""

import bisect
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

import msgspec

from pipeline.adapters.journals import codec, pages
from pipeline.adapters.journals.holders import new_token
from pipeline.adapters.journals.sizes import full, too_large
from pipeline.workflow.errors import Conflict, JournalFailed, LeaseLost, UnknownRun, UnknownWorkflow, VersionTaken
from pipeline.workflow.journal import (
    RUN_MAX,
    AnyEntry,
    Bundle,
    Lease,
    Numbered,
    Page,
    Registered,
    Rewound,
    RunRecord,
    Signalled,
    StateChanged,
)
from pipeline.workflow.states import ACTIVE, RunState


class _Kept(msgspec.Struct):
    """A run. `record` has what changes only with its state; `wake_at` may come sooner than the record's."""

    seq: int
    record: RunRecord
    inputs: bytes
    entries: list[bytes]
    size: int = 0  # of inputs and entries
    refused: bool = False  # something that was too large
    holder: str = ""
    epoch: int = 0
    at: float = 0.0  # of its newest entry
    wake_at: float | None = None
    ended_at: float | None = None


class Book:
    """What several journals in one process can share."""

    def __init__(self) -> None:
        self.workflows: dict[tuple[str, str], Registered] = {}
        self.bundles: dict[str, Bundle] = {}
        self.runs: dict[str, _Kept] = {}
        self.order: list[_Kept] = []
        self.active: dict[str, _Kept] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.seen: dict[str, float] = {}  # holder -> when it renewed
        self.last = 0


class MemoryJournal:
    """See `pipeline.workflow.journal.Journal`. `holder` is this journal's token (None: one of its own); journals over
    the same `book` see each other's runs and leases."""

    def __init__(
        self,
        *,
        lease_seconds: float = 10.0,
        holder: str | None = None,
        now: Callable[[], float] = time.time,
        book: Book | None = None,
        run_max: int = RUN_MAX,
    ) -> None:
        self.holder = holder or new_token(0)
        self._lease_seconds = lease_seconds
        self._now = now
        self._book = book or Book()
        self._run_max = run_max

    async def open(self) -> None:
        self._book.seen[self.holder] = self._now()

    async def aclose(self) -> None:
        for kept in self._book.runs.values():
            if kept.holder == self.holder:
                kept.holder = ""
        self._book.seen.pop(self.holder, None)

    # Workflows.

    async def register(self, workflow: Registered) -> Registered:
        workflow = codec.clean_texts(workflow)
        there = self._opened.workflows.get((workflow.name, workflow.version))
        if there is not None and there.digest != workflow.digest:
            raise VersionTaken(
                f"Version {workflow.version} of the workflow {workflow.name!r} is registered with other content"
            )
        self._book.bundles.setdefault(workflow.bundle.digest, workflow.bundle)
        return self._book.workflows.setdefault((workflow.name, workflow.version), workflow)

    async def workflow(self, name: str, version: str | None) -> Registered | None:
        if version is not None:
            return self._opened.workflows.get((name, version))
        return next((one for one in reversed(self._opened.workflows.values()) if one.name == name), None)

    async def workflows(self) -> list[Registered]:
        newest = reversed(self._opened.workflows.values())
        empty = msgspec.Raw(b"")
        return sorted(
            (msgspec.structs.replace(one, source="", bundle=Bundle(one.bundle.digest, empty)) for one in newest),
            key=attrgetter("name"),
        )

    async def bundle(self, digest: str) -> Bundle:
        try:
            return self._opened.bundles[digest]
        except KeyError:
            raise UnknownWorkflow(f"There is no bundle {digest!r}") from None

    # Runs.

    async def create(self, run: RunRecord, bundle: Bundle, *, take: bool) -> tuple[RunRecord, Lease | None]:
        book, run = self._opened, codec.clean_texts(run)
        if run.idempotency_key is not None and (run.caller, run.idempotency_key) in book.keys:
            return self._again(run), None
        if run.id in book.runs:
            raise Conflict(f"There is a run {run.id!r} already")
        inputs, options = codec.encode(run.inputs), codec.decode(codec.encode(run.options))
        first = StateChanged(run.created_at, run.state, "", run.outputs, run.error, run.wake_at)
        data = codec.encode(first)
        book.last += 1
        kept = _Kept(book.last, msgspec.structs.replace(run, inputs=None, options=options), inputs, [], len(inputs))
        if take:
            kept.holder, kept.epoch = self.holder, 1
        book.runs[run.id] = kept
        book.order.append(kept)
        book.bundles.setdefault(bundle.digest, bundle)
        if run.idempotency_key is not None:
            book.keys[run.caller, run.idempotency_key] = run.id
        self._add(kept, [first], [data])
        return self._record(kept), Lease(run.id, self.holder, 1) if take else None

    def _again(self, run: RunRecord) -> RunRecord:
        kept = self._book.runs[self._book.keys[run.caller, str(run.idempotency_key)]]
        if kept.record.request_digest != run.request_digest:
            raise Conflict(f"The idempotency key {run.idempotency_key!r} came with another request before")
        return self._record(kept)

    async def run(self, run_id: str, *, whole: bool = True) -> RunRecord | None:
        kept = self._opened.runs.get(codec.clean_text(run_id))
        if kept is None:
            return None
        return self._record(kept) if whole else self._bare(kept)

    async def runs(
        self,
        *,
        caller: str | None = None,
        workflow: str | None = None,
        states: Sequence[RunState] = (),
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        caller = None if caller is None else codec.clean_text(caller)
        workflow = None if workflow is None else codec.clean_text(workflow)

        def fits(record: RunRecord) -> bool:
            return (
                (caller is None or record.caller == caller)
                and (workflow is None or record.workflow == workflow)
                and (not states or record.state in states)
            )

        order = self._opened.order
        end = bisect.bisect_left(order, pages.place_of(after), key=attrgetter("seq"))
        found: list[_Kept] = []
        for at in range(end - 1, -1, -1):
            if fits(order[at].record):
                found.append(order[at])
                if len(found) > limit:
                    break
        more, found = len(found) > limit, found[:limit]
        records = [self._bare(kept) for kept in found]
        return Page(records, pages.cursor(found[-1].seq) if more and found else None)

    async def entries(
        self, run_id: str, after: int = 0, limit: int | None = None, *, most: int | None = None
    ) -> list[Numbered]:
        kept = self._opened.runs.get(codec.clean_text(run_id))
        if kept is None:
            return []
        until = None if limit is None else after + limit
        found, size = [], 0
        for number, data in enumerate(kept.entries[after:until], after + 1):
            found.append(Numbered(number, codec.decode_entry(data)))
            size += len(data)
            if most is not None and size >= most:
                break
        return found

    async def outline(self, run_id: str, most: int) -> list[Numbered]:
        kept = self._opened.runs.get(codec.clean_text(run_id))
        found = []
        for number, data in enumerate([] if kept is None else kept.entries, 1):
            entry = codec.decode_entry(data)
            found.append(Numbered(number, codec.outlined(entry, len(data)) if len(data) > most else entry))
        return found

    async def histories(self, run_ids: Sequence[str]) -> dict[str, list[Numbered]]:
        return {run_id: await self.entries(run_id) for run_id in run_ids if run_id in self._opened.runs}

    async def counts(self) -> dict[RunState, int]:
        counted = dict.fromkeys(sorted(ACTIVE), 0)
        for kept in self._opened.active.values():
            counted[kept.record.state] += 1
        return counted

    async def append(self, lease: Lease, entries: Sequence[AnyEntry]) -> int:
        data = [codec.encode(entry) for entry in entries]
        kept = self._opened.runs.get(lease.run)
        if kept is None or kept.holder != lease.holder or kept.epoch != lease.epoch:
            raise LeaseLost(lease.run)
        self._weigh(kept, entries, data)
        return self._add(kept, entries, data)

    async def post(self, run_id: str, entries: Sequence[AnyEntry]) -> int:
        data = [codec.encode(entry) for entry in entries]
        kept = self._known(run_id)
        restricted = any(isinstance(entry, StateChanged | Rewound) for entry in entries)
        if restricted and kept.holder and self.alive(kept.holder):
            raise Conflict(f"The run {run_id!r} is being executed: only who does may change its state")
        self._weigh(kept, entries, data)
        return self._add(kept, entries, data)

    def _weigh(self, kept: _Kept, entries: Sequence[AnyEntry], data: Sequence[bytes]) -> None:
        """Raises `RunFull`."""
        again = any(isinstance(entry, Rewound) for entry in entries)
        if too_large(kept.size, sum(map(len, data)), self._run_max, refused=kept.refused and not again):
            kept.refused = True
            raise full(kept.record.id, self._run_max)

    def _add(self, kept: _Kept, entries: Sequence[AnyEntry], data: Sequence[bytes]) -> int:
        kept.size += sum(map(len, data))
        for entry, encoded in zip(entries, data, strict=True):
            kept.entries.append(encoded)
            kept.at = entry.at
            if isinstance(entry, StateChanged):
                self._change(kept, entry, encoded)
            elif isinstance(entry, Signalled) and kept.record.state is RunState.WAITING:
                kept.wake_at = entry.at if kept.wake_at is None else min(kept.wake_at, entry.at)
        return len(kept.entries)

    def _change(self, kept: _Kept, entry: StateChanged, encoded: bytes) -> None:
        change = codec.decode_entry(encoded) if entry.outputs is not None or entry.error is not None else entry
        outputs, error = getattr(change, "outputs", None), getattr(change, "error", None)
        kept.record = msgspec.structs.replace(
            kept.record, state=entry.state, wake_at=entry.wake_at, outputs=outputs, error=error
        )
        kept.wake_at = entry.wake_at
        kept.ended_at = entry.at if entry.state.final else None
        if entry.state.final:
            self._book.active.pop(kept.record.id, None)
        else:
            self._book.active[kept.record.id] = kept

    # Leases.

    def alive(self, holder: str) -> bool:
        seen = self._book.seen.get(holder)
        if holder == self.holder:
            return seen is not None
        return seen is not None and self._now() - seen <= self._lease_seconds

    async def claim(self, run_id: str) -> Lease | None:
        kept = self._known(run_id)
        return self._take(kept) if self._free(kept) else None

    async def claim_many(self, limit: int, *, due: float, mine: Callable[[str], bool]) -> list[tuple[RunRecord, Lease]]:
        wanted = sorted(self._executable(due), key=attrgetter("seq"))
        claimed: list[tuple[RunRecord, Lease]] = []
        for kept in wanted:
            if len(claimed) == limit:
                break
            if mine(kept.record.id):
                lease = self._take(kept)
                claimed.append((self._record(kept), lease))
        return claimed

    def _executable(self, due: float) -> Iterator[_Kept]:
        for kept in self._opened.active.values():
            state = kept.record.state
            waited = state is RunState.WAITING and kept.wake_at is not None and kept.wake_at <= due
            if (waited or state in {RunState.PENDING, RunState.RUNNING}) and self._free(kept):
                yield kept

    async def next_due(self) -> float | None:
        waiting = (kept for kept in self._opened.active.values() if kept.record.state is RunState.WAITING)
        return min((kept.wake_at for kept in waiting if kept.wake_at is not None and self._free(kept)), default=None)

    async def release(self, lease: Lease) -> None:
        kept = self._opened.runs.get(lease.run)
        if kept is not None and kept.holder == lease.holder == self.holder and kept.epoch == lease.epoch:
            kept.holder = ""

    async def renew(self) -> None:
        self._opened.seen[self.holder] = self._now()

    # Upkeep.

    async def expire(self, before: float, limit: int = 1000) -> int:
        book = self._opened
        ended = [kept for kept in book.order if kept.ended_at is not None and kept.ended_at < before]
        gone = sorted(ended, key=attrgetter("ended_at"))[:limit]
        for kept in gone:
            del book.runs[kept.record.id]
            if kept.record.idempotency_key is not None:
                del book.keys[kept.record.caller, kept.record.idempotency_key]
        book.order = [kept for kept in book.order if kept.record.id in book.runs]
        needed = {kept.record.bundle for kept in book.order} | {one.bundle.digest for one in book.workflows.values()}
        for digest in {kept.record.bundle for kept in gone} - needed:
            book.bundles.pop(digest, None)
        return len(gone)

    @property
    def _opened(self) -> Book:
        if self.holder not in self._book.seen:
            raise JournalFailed("The journal is closed")
        return self._book

    def _known(self, run_id: str) -> _Kept:
        kept = self._opened.runs.get(codec.clean_text(run_id))
        if kept is None:
            raise UnknownRun(f"There is no run {run_id!r}")
        return kept

    def _free(self, kept: _Kept) -> bool:
        return not kept.holder or not self.alive(kept.holder)

    def _take(self, kept: _Kept) -> Lease:
        kept.holder = self.holder
        kept.epoch += 1
        return Lease(kept.record.id, self.holder, kept.epoch)

    def _bare(self, kept: _Kept) -> RunRecord:
        return msgspec.structs.replace(self._record(kept), inputs=None, outputs=None)

    def _record(self, kept: _Kept) -> RunRecord:
        return msgspec.structs.replace(
            kept.record,
            inputs=codec.decode(kept.inputs),
            updated_at=kept.at,
            last=len(kept.entries),
            holder=kept.holder,
            epoch=kept.epoch,
        )
