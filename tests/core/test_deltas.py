import asyncio

import pytest

from pipeline.core.deltas import DeltaChannel
from workers.base import Delta, DeltaBatch


def channel_of(high_water: int) -> DeltaChannel:
    return DeltaChannel(high_water, asyncio.get_running_loop())


def batch(*texts: str) -> DeltaBatch:
    return DeltaBatch(tuple(Delta(text) for text in texts))


def texts(batches: list[DeltaBatch]) -> list[str]:
    return [delta.text for b in batches for delta in b.deltas]


async def test_take_gives_all_that_is_ready():
    channel = channel_of(64)
    assert channel.put(batch("a"))
    assert channel.put(batch("b", "c"))
    assert texts(await channel.take()) == ["a", "b", "c"]
    assert len(channel) == 0


async def test_take_waits_for_a_put():
    channel = channel_of(64)
    waiting = asyncio.create_task(channel.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    channel.put(batch("a"))
    assert texts(await waiting) == ["a"]


async def test_the_high_water_mark_stops_the_producer_until_the_consumer_takes():
    channel = channel_of(2)
    assert channel.put(batch("a"))
    assert not channel.put(batch("b"))
    room = asyncio.create_task(channel.room())
    await asyncio.sleep(0)
    assert not room.done()
    await channel.take()
    assert await room is True


async def test_close_ends_after_what_is_waiting():
    channel = channel_of(64)
    channel.put(batch("a"))
    channel.close()
    assert texts(await channel.take()) == ["a"]
    assert await channel.take() == []


async def test_fail_raises_after_what_is_waiting():
    channel = channel_of(64)
    channel.put(batch("a"))
    channel.fail(ValueError("broken"))
    assert texts(await channel.take()) == ["a"]
    with pytest.raises(ValueError, match="broken"):
        await channel.take()


async def test_close_wakes_a_parked_consumer():
    channel = channel_of(64)
    waiting = asyncio.create_task(channel.take())
    await asyncio.sleep(0)
    channel.close()
    assert await waiting == []


async def test_the_first_ending_wins():
    channel = channel_of(64)
    channel.close()
    channel.fail(ValueError("late"))
    assert await channel.take() == []


async def test_an_abandoned_channel_tells_a_waiting_producer():
    channel = channel_of(1)
    channel.put(batch("a"))
    room = asyncio.create_task(channel.room())
    await asyncio.sleep(0)
    channel.abandon()
    assert await room is False
    assert not channel.put(batch("b"))
    assert len(channel) == 0


async def test_a_cancelled_take_loses_nothing():
    channel = channel_of(64)
    waiting = asyncio.create_task(channel.take())
    await asyncio.sleep(0)
    channel.put(batch("a"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert texts(await channel.take()) == ["a"]


async def test_size_is_bounded_by_the_mark_and_one_batch():
    channel = channel_of(4)
    while channel.put(batch("x", "y", "z")):
        pass
    assert len(channel) == 6
