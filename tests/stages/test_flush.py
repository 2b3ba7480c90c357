"""Deltas gather while the event loop is busy, for a moment: the first and the last never wait, and none is lost."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.core.errors import BackendFailed
from pipeline.core.outcomes import Reason
from pipeline.core.queue import StageQueue
from pipeline.stages.stream import StreamStage
from pipeline.wiring import Pipeline
from tests.flows import submit
from tests.stages.pooled import Pools, Replica, failure, pooled, until, worker
from workers.base import Delta, DeltaBatch
from workers.errors import WorkerErrorKind

LONG = 100  # ms


class Feed:
    """A call's deltas, given one by one."""

    def __init__(self, replica: Replica) -> None:
        self.queue: asyncio.Queue[DeltaBatch | Exception | None] = asyncio.Queue()
        replica.generate = self._generate  # type: ignore[method-assign,assignment]

    async def _generate(self, _: object):
        while (given := await self.queue.get()) is not None:
            if isinstance(given, Exception):
                raise given
            yield given

    async def give(self, *texts: str) -> None:
        for text in texts:
            self.queue.put_nowait(DeltaBatch((Delta(text),)))
        while not self.queue.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)


@asynccontextmanager
async def busy(pools: Pools, *, gathers: bool = True, flush_ms: int = LONG) -> AsyncIterator[tuple[Pipeline, Feed]]:
    stages = {"stream": {"flush_ms": flush_ms, "flush_load": 0.0 if gathers else 1.0}}
    async with pooled(worker(high_water_deltas=8), more={"stages": stages}) as (pipeline, _):
        await until(lambda: pipeline.flow.stream.gathers == (gathers and flush_ms > 0))
        yield pipeline, Feed(pools["a"][0])


async def test_an_idle_loop_writes_each_delta_at_once(pools: Pools):
    async with busy(pools, gathers=False) as (pipeline, feed):
        _, sink = submit(pipeline)
        for number in range(1, 6):
            await feed.give("x")
            assert (sink.writes, len(sink.deltas)) == (number, number)
        feed.queue.put_nowait(None)
        await sink.done()


async def test_without_a_time_to_gather_in_nothing_gathers(pools: Pools):
    async with busy(pools, flush_ms=0) as (pipeline, feed):
        _, sink = submit(pipeline)
        await feed.give("x", "x", "x")
        assert sink.writes == 3
        feed.queue.put_nowait(None)
        await sink.done()


async def test_a_busy_one_writes_the_first_at_once_and_what_follows_together(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        began = asyncio.get_running_loop().time()
        _, sink = submit(pipeline)
        await feed.give("first")
        assert sink.text == "first"
        await feed.give("a", "b", "c")
        assert sink.text == "first"
        await until(lambda: sink.writes == 2)
        assert sink.text == "firstabc"
        assert asyncio.get_running_loop().time() - began >= LONG / 1000
        feed.queue.put_nowait(None)
        await sink.done()


async def test_the_end_waits_for_nothing(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        began = asyncio.get_running_loop().time()
        _, sink = submit(pipeline)
        await feed.give("a", "b", "c")
        feed.queue.put_nowait(None)
        assert await sink.done() == "abc"
        assert sink.writes == 2
        assert asyncio.get_running_loop().time() - began < LONG / 1000


async def test_an_error_comes_after_what_had_gathered(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        _, sink = submit(pipeline)
        await feed.give("a", "b", "c")
        feed.queue.put_nowait(failure(WorkerErrorKind.RESET))
        with pytest.raises(BackendFailed):
            await sink.done()
        assert sink.text == "abc"


async def test_no_more_gathers_than_a_channel_may_hold(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        _, sink = submit(pipeline)
        await feed.give("0")
        await feed.give(*"1234567")
        assert sink.writes == 1
        await feed.give("8")
        assert (sink.writes, sink.text) == (2, "012345678")
        feed.queue.put_nowait(None)
        await sink.done()


async def test_a_client_that_leaves_meanwhile_stops_the_call(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        ticket, sink = submit(pipeline)
        await feed.give("a", "b")
        pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        await until(lambda: not pipeline.flow.lanes["a"].inflight)
        await asyncio.sleep(1.5 * LONG / 1000)  # the moment passes
        assert sink.text == "a"


async def test_a_connection_that_breaks_on_what_had_gathered_ends_the_request(pools: Pools):
    async with busy(pools) as (pipeline, feed):
        ticket, sink = submit(pipeline)
        await feed.give("a", "b")

        def broken(_: object) -> None:
            raise ConnectionResetError

        sink.write = broken  # type: ignore[method-assign,assignment]
        await until(lambda: ticket.ending is not None)
        assert ticket.ending is not None
        assert ticket.ending.reason is Reason.CLIENT_GONE


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_out_of_order_however_it_comes(pools: Pools, seed: int):
    draw = random.Random(seed)
    async with busy(pools, flush_ms=2) as (pipeline, feed):
        words = [f"{number} " for number in range(300)]
        _, sink = submit(pipeline)
        at = 0
        while at < len(words):
            size = draw.choice([1, 1, 2, 9, 20])
            feed.queue.put_nowait(DeltaBatch(tuple(Delta(word) for word in words[at : at + size])))
            at += size
            if draw.random() < 0.5:
                await asyncio.sleep(draw.choice([0, 0, 0.001, 0.003]))
        feed.queue.put_nowait(None)
        assert await sink.done() == "".join(words)
        assert sink.writes < len(words)


def test_it_gathers_from_its_share_of_the_core_on_and_goes_on_for_a_while():
    spent = 0.0
    stage = StreamStage(StageQueue(8), 8, lambda: 0.0, spent=lambda: spent)
    stage.flush, stage.flush_load = 0.005, 0.4
    seen = []
    for second, used in enumerate((0.0, 0.39, 0.41, 0.31, 0.29, 0.39)):
        spent += used
        stage.tick(float(second))
        seen.append(stage.gathers)
    assert seen == [False, False, True, True, False, False]
    spent += 1.0
    stage.tick(5.0)  # no time has passed since
    assert not stage.gathers
