import asyncio

import pytest

from pipeline.edge import sse


def test_data_is_one_frame():
    assert sse.data(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse.event(b"delta", b"{}") == b"event: delta\ndata: {}\n\n"


@pytest.mark.parametrize("raw", [b'{\n "a": 1\n}', b'{\r\n "a": 1}', b'{\r"a": 1}'])
def test_json_that_spans_lines_becomes_one(raw):
    assert sse.data(raw) == b'data: {"a":1}\n\n'


async def test_a_coroutine_that_does_not_wait_is_done_at_once():
    done = []

    async def work() -> None:
        done.append(1)

    assert sse.eager(work()) is None
    assert done == [1]


async def test_what_a_coroutine_raises_at_once_is_raised():
    async def work() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        sse.eager(work())


async def test_a_coroutine_that_waits_goes_on_where_it_is_awaited():
    steps, gate, second = [], asyncio.Event(), asyncio.Event()

    async def work() -> None:
        steps.append("begun")
        await gate.wait()
        steps.append("gone on")
        await second.wait()
        steps.append("done")

    pending = sse.eager(work())
    assert pending is not None
    assert steps == ["begun"]
    task = asyncio.ensure_future(pending)
    gate.set()
    await asyncio.sleep(0.01)
    assert steps == ["begun", "gone on"]
    second.set()
    await task
    assert steps[-1] == "done"


async def test_a_coroutine_that_fails_later_fails_where_it_is_awaited():
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise ConnectionResetError

    pending = sse.eager(work())
    gate.set()
    assert pending is not None
    with pytest.raises(ConnectionResetError):
        await pending


async def test_cancelling_reaches_the_coroutine():
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    pending = sse.eager(work())
    assert pending is not None
    task = asyncio.ensure_future(pending)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del pending, task
    assert ended == [1]
