"""The channel that carries one answer's tokens from its worker to its client."""

import asyncio

import pytest

from benchmarks.micro.measure import Measure
from pipeline.core.deltas import DeltaChannel
from pipeline.stages.stream import plain
from workers.base import Delta, DeltaBatch

TOKENS = 64
ANSWERS = 8


class Reader:
    """Takes as the Stream stage does: called back when something is ready, then all of it."""

    def __init__(self, channel: DeltaChannel) -> None:
        self.tokens = 0
        self.wakeups = 0
        self._channel = channel

    def go_on(self) -> None:
        self.wakeups += 1
        while self._channel.ready:
            batches = self._channel.take_ready()
            if not batches:
                return
            self.tokens += len(plain(batches).deltas)
        self._channel.when_ready(self.go_on)


@pytest.mark.parametrize("together", [1, 8])
def test_tokens_to_a_reader_that_keeps_up(measure: Measure, loop: asyncio.AbstractEventLoop, together: int) -> None:
    batch = DeltaBatch((Delta("word "),) * together)

    def answer() -> Reader:
        channel = DeltaChannel(TOKENS, loop)
        reader = Reader(channel)
        channel.when_ready(reader.go_on)
        for _ in range(TOKENS // together):
            channel.put(batch)
        channel.close()
        return reader

    reader = measure(f"channel: {together} per wake-up", answer, units=TOKENS, unit="token")
    assert reader.tokens == TOKENS
    assert reader.wakeups == TOKENS // together + 1


def test_tokens_to_a_reader_that_is_behind(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    batch = DeltaBatch((Delta("word "),))

    def answer() -> int:
        channel = DeltaChannel(TOKENS, loop)
        for _ in range(TOKENS):
            channel.put(batch)
        return len(plain(channel.take_ready()).deltas)

    taken = measure("channel: 64 waiting, taken at once", answer, units=TOKENS, unit="token")
    assert taken == TOKENS


def test_tokens_between_tasks(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    """The channel is full after each eighth token: producer and consumer wait for each other in turn."""
    batch = DeltaBatch((Delta("word "),))

    async def produce(channel: DeltaChannel) -> None:
        for _ in range(TOKENS):
            if not channel.put(batch):
                await channel.room()
        channel.close()

    async def answers() -> int:
        taken = 0
        for _ in range(ANSWERS):
            channel = DeltaChannel(8, loop)
            producer = loop.create_task(produce(channel))
            while batches := await channel.take():
                taken += len(batches)
            await producer
        return taken

    taken = measure(
        "channel: tasks that wait for each other",
        lambda: loop.run_until_complete(answers()),
        units=TOKENS * ANSWERS,
        unit="token",
    )
    assert taken == TOKENS * ANSWERS
