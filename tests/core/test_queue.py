import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.queue import Put, StageQueue


def queue(capacity: int = 3) -> StageQueue[str]:
    return StageQueue(capacity)


def test_try_put_says_what_happened():
    q = queue(1)
    assert q.try_put("a", 0.0) is Put.ACCEPTED
    assert q.try_put("b", 0.0) is Put.FULL
    q.close()
    assert q.try_put("c", 0.0) is Put.CLOSED


def test_capacity_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        queue(0)


async def test_take_drains_up_to_the_limit_in_order():
    q = queue()
    for n, item in enumerate("abc"):
        q.try_put(item, float(n))
    assert await q.take(2) == [(0.0, "a"), (1.0, "b")]
    assert await q.take(2) == [(2.0, "c")]


async def test_take_waits_for_a_put():
    q = queue()
    waiting = asyncio.create_task(q.take(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    q.try_put("a", 1.0)
    assert await waiting == [(1.0, "a")]


async def test_a_cancelled_take_loses_nothing():
    q = queue()
    waiting = asyncio.create_task(q.take(5))
    await asyncio.sleep(0)
    q.try_put("a", 1.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await q.take(5) == [(1.0, "a")]


async def test_close_lets_what_waits_out_and_then_ends():
    q = queue()
    q.try_put("a", 0.0)
    q.close()
    assert await q.take(5) == [(0.0, "a")]
    assert await q.take(5) == []


async def test_close_wakes_a_parked_take():
    q = queue()
    waiting = asyncio.create_task(q.take(5))
    await asyncio.sleep(0)
    q.close()
    assert await waiting == []


async def test_a_reserved_place_cannot_be_taken_by_others():
    q = queue(2)
    assert q.reserve()
    assert q.try_put("a", 0.0) is Put.ACCEPTED
    assert q.try_put("b", 0.0) is Put.FULL
    assert not q.reserve()
    assert q.try_put("c", 0.0, reserved=True) is Put.ACCEPTED
    assert [item for _, item in await q.take(9)] == ["a", "c"]


def test_a_released_place_is_free_again():
    q = queue(1)
    assert q.reserve()
    q.release()
    assert q.vacancies == 1
    assert q.try_put("a", 0.0) is Put.ACCEPTED


async def test_a_vacancy_is_announced_once():
    q = queue(1)
    seen: list[str] = []
    q.try_put("a", 0.0)
    q.on_vacancy(lambda: seen.append("vacancy"))
    await q.take(1)
    q.try_put("b", 0.0)
    await q.take(1)
    assert seen == ["vacancy"]


async def test_withdrawn_items_are_gone_also_for_a_parked_take():
    q = queue()
    waiting = asyncio.create_task(q.take(5))
    await asyncio.sleep(0)
    q.try_put("gone", 0.0)
    assert q.withdraw(lambda item: item == "gone") == ["gone"]
    await asyncio.sleep(0)
    assert not waiting.done()
    q.try_put("kept", 1.0)
    assert await waiting == [(1.0, "kept")]


async def test_statistics():
    q = queue(3)
    for n in range(5):
        q.try_put(str(n), float(n))
    q.reserve()
    await q.take(1)
    assert q.reserve()
    s = q.statistics(now=10.0)
    assert (s.depth, s.capacity, s.reserved, s.oldest, s.offered, s.taken, s.shed) == (2, 3, 1, 9.0, 5, 1, 2)
    assert queue().statistics(5.0).oldest == 0.0


@given(st.lists(st.sampled_from(["put", "reserve", "put reserved", "release", "take", "withdraw"]), max_size=60))
def test_depth_and_reservations_never_exceed_capacity(actions: list[str]):
    async def play() -> None:
        q: StageQueue[int] = StageQueue(4)
        held = 0
        for n, action in enumerate(actions):
            if action == "put":
                q.try_put(n, float(n))
            elif action == "reserve":
                held += q.reserve()
            elif action == "put reserved" and held:
                held -= 1
                assert q.try_put(n, float(n), reserved=True) is Put.ACCEPTED
            elif action == "release" and held:
                held -= 1
                q.release()
            elif action == "take" and len(q):
                await q.take(2)
            elif action == "withdraw":
                q.withdraw(lambda item: item % 2 == 0)
            assert len(q) + held <= q.capacity
            assert q.reserved == held

    asyncio.run(play())
