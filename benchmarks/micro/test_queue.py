"""The bounded queue in front of a stage."""

import asyncio

from benchmarks.micro.measure import Measure
from pipeline.core.queue import Put, StageQueue

ITEMS = 64
TURNS = 16  # in a round: entering the event loop costs as much as some items


def test_put_and_take_together(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    queue: StageQueue[int] = StageQueue(ITEMS)

    async def fill_and_take() -> int:
        taken = 0
        for _ in range(TURNS):
            for item in range(ITEMS):
                queue.try_put(item, 0.0)
            taken += len(await queue.take(ITEMS))
        return taken

    taken = measure(
        "queue: 64 put, taken together",
        lambda: loop.run_until_complete(fill_and_take()),
        units=ITEMS * TURNS,
        unit="item",
    )
    assert taken == ITEMS * TURNS
    assert queue.offered == queue.taken
    assert queue.shed == 0


def test_put_and_take_one_by_one(measure: Measure) -> None:
    queue: StageQueue[int] = StageQueue(ITEMS)

    def pass_through() -> int:
        taken = 0
        for item in range(ITEMS):
            queue.try_put(item, 0.0)
            taken += len(queue.take_ready(1))
        return taken

    taken = measure("queue: put, taken one by one", pass_through, units=ITEMS, unit="item")
    assert taken == ITEMS


def test_reserved_put_and_take(measure: Measure) -> None:
    queue: StageQueue[int] = StageQueue(ITEMS)

    def reserve_put_take() -> int:
        for item in range(ITEMS):
            if queue.reserve():
                queue.try_put(item, 0.0, reserved=True)
        return len(queue.take_ready(ITEMS))

    taken = measure("queue: reserved, put, taken together", reserve_put_take, units=ITEMS, unit="item")
    assert taken == ITEMS
    assert queue.reserved == 0


def test_reserve_and_release(measure: Measure) -> None:
    queue: StageQueue[int] = StageQueue(1)

    def reserve_and_release() -> int:
        held = 0
        for _ in range(ITEMS):
            held += queue.reserve()
            queue.release()
        return held

    held = measure("queue: place reserved and given back", reserve_and_release, units=ITEMS, unit="place")
    assert held == ITEMS
    assert queue.reserved == 0


def test_put_into_a_full_queue(measure: Measure) -> None:
    queue: StageQueue[int] = StageQueue(1)
    queue.try_put(0, 0.0)

    def be_refused() -> int:
        return sum(queue.try_put(item, 0.0) is Put.FULL for item in range(ITEMS))

    refused = measure("queue: refused, as it is full", be_refused, units=ITEMS, unit="item")
    assert refused == ITEMS
    assert len(queue) == 1
