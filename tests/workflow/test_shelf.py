"""Many who watch cost little more than one: entries are encoded and read once, and nobody holds more than a little."""

import asyncio

import pytest

from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.workflow import events, shelf
from pipeline.workflow.errors import RunWatched, TooManyWatchers
from pipeline.workflow.events import AT_A_TIME, WATCHERS_OF_RUN, Slices, Watch
from pipeline.workflow.journal import StepCompleted, StepStarted
from pipeline.workflow.shelf import BATCH, LARGE
from tests.workflow.test_events import DONE, RUNNING, Scribe, all_of, numbers, scribe, writing

__all__ = ["scribe"]


@pytest.fixture
def readings(monkeypatch):
    """Counts how often entries are read."""
    found = []
    entries = MemoryJournal.entries

    async def counted(self, *args, **kwargs):
        found.append(args)
        await asyncio.sleep(0)
        return await entries(self, *args, **kwargs)

    monkeypatch.setattr(MemoryJournal, "entries", counted)
    return found


async def many(scribe: Scribe, count: int) -> list[Watch]:
    return [await scribe.watch() for _ in range(count)]


async def test_what_many_read_is_read_and_encoded_once(scribe, readings):
    await scribe.write(RUNNING, *[StepStarted(3.0, f"s{number}") for number in range(200)], DONE, told=False)
    watches = await many(scribe, 40)
    found = await asyncio.gather(*map(all_of, watches))
    assert all(numbers(one) == list(range(1, 204)) for one in found)
    assert len(readings) < 40
    for together in zip(*found, strict=True):
        assert len({id(one.json) for one in together}) == 1


async def test_what_comes_is_encoded_once(scribe):
    watches = await many(scribe, 20)
    for watch in watches:
        await anext(watch)
    await scribe.write(StepCompleted(3.0, "a", value="x" * 10_000))
    batches = [await anext(watch) for watch in watches]
    assert len({id(batch[0].json) for batch in batches}) == 1
    await scribe.write(DONE)
    await asyncio.gather(*map(all_of, watches))


async def test_nobody_is_given_more_than_a_batch_at_a_time(scribe):
    for number in range(60):
        await scribe.write(StepCompleted(3.0, f"s{number}", value="x" * 10_000), told=number % 2 == 0)
    await scribe.write(DONE)
    watch = await scribe.watch()
    batches = [batch async for batch in watch]
    assert numbers([one for batch in batches for one in batch]) == list(range(1, 63))
    assert max(sum(len(one.json) for one in batch) for batch in batches) <= BATCH


async def test_a_large_entry_waits_in_one_place_only(scribe, readings):
    watches = await many(scribe, 10)
    for watch in watches:
        await anext(watch)
    before = len(readings)
    await scribe.write(StepCompleted(3.0, "a", value="x" * (LARGE + 1)))
    assert not any(watch._queue for watch in watches)
    batches = [await anext(watch) for watch in watches]
    assert len(readings) == before  # it is kept, as it was encoded
    assert len({id(batch[0].json) for batch in batches}) == 1
    await scribe.write(DONE)
    await asyncio.gather(*map(all_of, watches))


async def test_who_holds_up_too_much_is_sent_away(monkeypatch):
    monkeypatch.setattr(shelf, "HELD", 3 * LARGE)
    async with writing() as scribe:
        await scribe.write(*[StepCompleted(3.0, f"s{number}", value="x" * (LARGE + 9)) for number in range(6)], DONE)
        watches = [await scribe.watch(after=1 + number) for number in range(4)]
        hurried = []
        for number, watch in enumerate(watches[:2]):
            watch.hurry = lambda number=number: hurried.append(number)
            assert len(await anext(watch)) == 1
        await watches[0].progress()
        assert len(await anext(watches[2])) == 1  # the third is too much: whoever took nothing for the longest goes
        assert hurried == [1]
        assert [watch.closed for watch in watches] == [False, True, False, False]
        assert await all_of(watches[1]) == []
        assert numbers(await all_of(watches[0]))[-1] == 8
        for watch in watches[2:]:
            watch.close()
        assert scribe.hub.shelf.size == 0


async def test_what_is_kept_is_bounded_and_let_go_of(scribe, monkeypatch):
    monkeypatch.setattr(shelf, "KEPT", 200_000)
    watch = await scribe.watch()
    await anext(watch)
    for number in range(40):
        await scribe.write(StepCompleted(3.0, f"s{number}", value="x" * 20_000))
        assert scribe.hub.shelf.size <= 200_000
    await scribe.write(DONE)
    assert numbers(await all_of(watch)) == list(range(2, 43))
    assert scribe.hub.shelf.size == 0


async def test_so_many_watch_and_no_more(scribe, monkeypatch):
    watches = await many(scribe, WATCHERS_OF_RUN)
    with pytest.raises(RunWatched) as refused:
        await scribe.watch()
    assert (refused.value.status, refused.value.retry_after is not None) == (429, True)
    watches.pop().close()
    watches.append(await scribe.watch())
    monkeypatch.setattr(events, "WATCHERS_MAX", WATCHERS_OF_RUN)
    with pytest.raises(TooManyWatchers) as refused:
        scribe.hub.check("another")
    assert refused.value.status == 503
    for watch in watches:
        watch.close()
        watch.close()
    assert scribe.hub.watchers == 0


async def test_so_many_go_on_in_one_turn_of_the_loop():
    slices, woken = Slices(), []

    async def one(number: int) -> None:
        await slices.turn()
        woken.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(10 * AT_A_TIME)]
    tasks[3 * AT_A_TIME].cancel()
    turns, before = 0, 0
    while len(woken) < len(tasks) - 1:
        await asyncio.sleep(0)
        assert len(woken) - before <= 2 * AT_A_TIME
        before = len(woken)
        turns += 1
        assert turns < 100
    assert turns >= 5
    assert woken == sorted(woken)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_entry_that_came_between_is_not_missed(scribe, monkeypatch):
    """It was written after one reading began, and told before this watch was there."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    entries = MemoryJournal.entries

    async def slow(self, *args, **kwargs):
        found = await entries(self, *args, **kwargs)
        begun.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(MemoryJournal, "entries", slow)
    first = await scribe.watch(after=1)
    reading = asyncio.create_task(anext(first, None))
    await begun.wait()
    run = await scribe.journal.run(scribe.id)
    await scribe.write(RUNNING)  # the first is told; a second one that knows the run from before is not
    second = scribe.hub.watch(run, 1, 60.0)
    taking = asyncio.create_task(anext(second))
    await asyncio.sleep(0)
    go_on.set()
    assert numbers(await asyncio.wait_for(taking, 5)) == [2]
    assert numbers(await asyncio.wait_for(reading, 5)) == [2]
    first.close()
    second.close()
