"""Whoever watches sees every entry once and in order, whatever the pace of either side."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.events import ENTRIES_MAX, TEXT_MAX, Hub, Seen, Watch
from pipeline.workflow.journal import (
    AnyEntry,
    Bundle,
    Lease,
    Numbered,
    Rewound,
    RunRecord,
    StateChanged,
    StepCompleted,
    StepStarted,
)
from pipeline.workflow.states import RunState
from pipeline.workflow.views import Token

RUNNING = StateChanged(2.0, RunState.RUNNING)
DONE = StateChanged(9.0, RunState.COMPLETED, outputs={"a": 1})
BUNDLE = Bundle("0" * 64, msgspec.Raw(b"{}"))


class Scribe:
    """Writes a run as the engine does, and tells the hub."""

    def __init__(self, journal: MemoryJournal, hub: Hub, run: RunRecord, lease: Lease, book: Book) -> None:
        self.book = book
        self.journal = journal
        self.hub = hub
        self.id = run.id
        self.lease = lease

    async def write(self, *entries: AnyEntry, told: bool = True) -> None:
        last = await self.journal.append(self.lease, entries)
        if told:
            first = last - len(entries) + 1
            self.hub.entries(self.id, [Numbered(first + index, entry) for index, entry in enumerate(entries)])

    async def watch(self, after: int = 0, quiet: float = 5.0) -> Watch:
        run = await self.journal.run(self.id)
        assert run is not None
        return self.hub.watch(run, after, quiet)

    async def written(self) -> list[int]:
        return [each.number for each in await self.journal.entries(self.id)]


@asynccontextmanager
async def writing() -> AsyncIterator[Scribe]:
    book = Book()
    journal = MemoryJournal(book=book)
    await journal.open()
    hub = Hub(journal)
    asked = RunRecord("run_1", "w", "1", BUNDLE.digest, RunState.PENDING, 1.0, 1.0)
    run, lease = await journal.create(asked, BUNDLE, take=True)
    assert lease is not None
    yield Scribe(journal, hub, run, lease, book)
    assert hub.watchers == 0
    await journal.aclose()


@pytest.fixture
async def scribe() -> AsyncIterator[Scribe]:
    async with writing() as found:
        yield found


async def all_of(watch: Watch) -> list[Seen]:
    async with asyncio.timeout(5):
        return [seen async for batch in watch for seen in batch]


def numbers(found: list[Seen]) -> list[int]:
    return [seen.number for seen in found if seen.number]


def texts(found: list[Seen]) -> list[Token]:
    return [seen.entry for seen in found if isinstance(seen.entry, Token)]


async def test_what_was_and_what_comes(scribe):
    await scribe.write(RUNNING, StepStarted(3.0, "a"))
    watch = await scribe.watch()
    first = await anext(watch)
    assert numbers(first) == [1, 2, 3]
    taking = asyncio.create_task(anext(watch))
    await asyncio.sleep(0)
    await scribe.write(StepCompleted(4.0, "a", value=7))
    (seen,) = await taking
    assert (seen.number, seen.entry) == (4, StepCompleted(4.0, "a", value=7))
    assert msgspec.json.decode(seen.json) == {"kind": "completed", "at": 4.0, "path": "a", "value": 7}
    await scribe.write(DONE)
    assert numbers(await all_of(watch)) == [5]


async def test_it_goes_on_after_what_was_seen(scribe):
    await scribe.write(RUNNING, StepStarted(3.0, "a"), StepCompleted(4.0, "a"), DONE)
    assert numbers(await all_of(await scribe.watch(after=3))) == [4, 5]
    assert await all_of(await scribe.watch(after=5)) == []
    assert await all_of(await scribe.watch(after=500)) == []


async def test_a_number_that_never_was_counts_as_the_newest(scribe):
    watch = await scribe.watch(after=500)
    await scribe.write(RUNNING, DONE)
    assert numbers(await all_of(watch)) == [2, 3]


async def test_a_run_that_went_on_after_its_end(scribe):
    await scribe.write(RUNNING, DONE)
    before = await scribe.watch()
    assert numbers(await all_of(before)) == [1, 2, 3]
    await scribe.write(Rewound(10.0, ["a"]), StateChanged(10.0, RunState.PENDING), RUNNING)
    later = await scribe.watch(after=3)
    assert numbers(await anext(later)) == [4, 5, 6]
    await scribe.write(DONE)
    assert numbers(await all_of(later)) == [7]
    assert numbers(await all_of(await scribe.watch())) == [1, 2, 3, 4, 5, 6, 7]


async def test_tokens_of_a_step_come_together_and_before_its_end(scribe):
    await scribe.write(RUNNING)
    watch = await scribe.watch(after=2)
    taking = asyncio.create_task(anext(watch))
    await asyncio.sleep(0.01)
    scribe.hub.text("run_1", "a", 1, "Hel")
    scribe.hub.text("run_1", "b", 1, "x")
    scribe.hub.text("run_1", "a", 1, "lo")
    await scribe.write(StepCompleted(4.0, "a", value="Hello"))
    scribe.hub.text("run_1", "b", 2, "y")
    await scribe.write(DONE)
    found = [*await taking, *await all_of(watch)]
    assert [seen.entry if seen.number == 0 else seen.number for seen in found] == [
        Token("a", "Hello"),
        Token("b", "x"),
        3,
        Token("b", "y", 2),
        4,
    ]


async def test_tokens_are_what_a_slow_watcher_misses(scribe):
    await scribe.write(RUNNING)
    watch = await scribe.watch()
    await anext(watch)
    for _ in range(2 * TEXT_MAX // 100):
        scribe.hub.text("run_1", "a", 1, "x" * 100)
    await scribe.write(StepStarted(3.0, "other"))
    first = await anext(watch)
    kept = sum(len(token.text) for token in texts(first))
    assert 0 < kept <= TEXT_MAX
    assert numbers(first) == [3]
    scribe.hub.text("run_1", "a", 1, "rest")
    (told,) = texts(await anext(watch))
    assert (told.text, told.missed) == ("rest", 2 * TEXT_MAX // 100 * 100 - kept)
    await scribe.write(DONE)
    await all_of(watch)


async def test_a_slow_watcher_is_bounded_and_misses_no_entry(scribe):
    watch = await scribe.watch()
    await anext(watch)
    big = "x" * 10_000
    for number in range(200):
        await scribe.write(StepCompleted(3.0, f"s{number}", value=big))
        assert sum(len(seen.json) for seen in watch._queue) < ENTRIES_MAX + 20_000
    await scribe.write(DONE)
    found = await all_of(watch)
    assert numbers(found) == list(range(2, 203))
    assert found[0].entry.value == big


async def test_large_entries_are_read_a_few_at_a_time(scribe):
    for number in range(8):
        await scribe.write(StepCompleted(3.0, f"s{number}", value="x" * ENTRIES_MAX), told=False)
    await scribe.write(*[StepStarted(3.0, f"t{number}") for number in range(100)], DONE, told=False)
    watch = await scribe.watch()
    batches = [batch async for batch in watch]
    assert numbers(list(itertools.chain(*batches))) == list(range(1, 111))
    sizes = [sum(len(seen.json) for seen in batch) for batch in batches[1:]]
    assert max(sizes) <= 9 * ENTRIES_MAX


async def test_half_a_character_ends_nobody(scribe):
    watch = await scribe.watch()
    await anext(watch)
    await scribe.write(StepCompleted(3.0, "a", value="\ud800"))
    scribe.hub.text("run_1", "b", 1, "\ud800!")
    await scribe.write(DONE)
    found = await all_of(watch)
    assert numbers(found) == [2, 3]
    assert all(b"\xed\xa0\x80" not in seen.json for seen in found)


async def test_nothing_for_a_while_is_said(scribe):
    watch = await scribe.watch(quiet=0.01)
    await anext(watch)
    assert await anext(watch) == []
    assert await anext(watch) == []
    await scribe.write(DONE, told=False)  # by whoever it was
    assert numbers(await all_of(watch)) == [2]


async def test_a_watch_ends_when_another_process_takes_the_run(scribe):
    watch = await scribe.watch(quiet=0.01)
    await anext(watch)
    other = MemoryJournal(holder="1:77:other", book=scribe.book)
    await other.open()
    await scribe.journal.release(scribe.lease)
    assert await anext(watch) == []  # nobody has it: it may come back
    lease = await other.claim(scribe.id)
    assert lease is not None
    await other.append(lease, [RUNNING])
    assert numbers(await all_of(watch)) == [2]
    await other.aclose()


async def test_a_watch_ends_when_the_run_is_forgotten(scribe):
    await scribe.write(RUNNING, DONE, told=False)
    watch = await scribe.watch(after=1, quiet=0.01)
    await scribe.journal.release(scribe.lease)
    await scribe.journal.expire(1e12)
    assert await all_of(watch) == []


async def test_closing_wakes_who_waits(scribe):
    watch = await scribe.watch()
    await anext(watch)
    taking = asyncio.create_task(anext(watch, None))
    await asyncio.sleep(0)
    scribe.hub.close()
    assert await asyncio.wait_for(taking, 1) is None


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 90), st.booleans()),
    st.tuples(st.just("text"), st.integers(1, 40_000)),
    st.tuples(st.just("take"), st.integers(1, 3)),
    st.tuples(st.just("turn"), st.integers(1, 4)),
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30), st.lists(steps, max_size=25))
async def test_every_entry_once_and_in_order(before, after, script):
    async with writing() as scribe:
        await scribe.write(RUNNING, *[StepStarted(3.0, f"s{number}") for number in range(before)])
        after = min(after, before + 2)
        watch = await scribe.watch(after)
        found: list[Seen] = []
        taking: asyncio.Task[list[Seen]] | None = None
        for what, amount, *large in script:
            if what == "write":
                value = "x" * 20_000 if large[0] else None
                await scribe.write(*[StepCompleted(4.0, f"e{number}", value=value) for number in range(amount)])
            elif what == "text":
                scribe.hub.text("run_1", "e1", 1, "x" * amount)
            elif what == "turn":
                for _ in range(amount):
                    await asyncio.sleep(0)
            else:
                taking = taking or asyncio.create_task(anext(watch))
                await asyncio.sleep(0)
                if taking.done():
                    found += taking.result()
                    taking = None
        await scribe.write(DONE)
        found += await taking if taking is not None else []
        found += await all_of(watch)
        assert numbers(found) == list(range(after + 1, (await scribe.written())[-1] + 1))
