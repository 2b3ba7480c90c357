"""A coroutine without a task."""

import asyncio

import pytest

from pipeline.edge.driven import Driven


class Steps:
    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.seen: list[str] = []

    async def run(self) -> None:
        self.seen.append("began")
        try:
            self.seen.append(await self.future)
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise


async def test_it_begins_at_once_and_goes_on_when_its_future_is_done():
    steps, over = Steps(), []
    driven = Driven(steps.run(), lambda: over.append(True))
    driven.start()
    assert (steps.seen, driven.done) == (["began"], False)
    steps.future.set_result("answered")
    await asyncio.sleep(0)
    assert (steps.seen, driven.done, over) == (["began", "answered"], True, [True])


@pytest.mark.parametrize("done", [False, True], ids=["waiting", "about to go on"])
async def test_cancelled_it_ends_at_once_and_only_once(done):
    steps, over = Steps(), []
    driven = Driven(steps.run(), lambda: over.append(True))
    driven.start()
    if done:
        steps.future.set_result("answered")
    driven.cancel()
    assert (steps.seen, driven.done, over) == (["began", "cancelled"], True, [True])
    driven.cancel()
    await asyncio.sleep(0)
    assert (steps.seen, over) == (["began", "cancelled"], [True])


async def test_an_error_goes_to_the_event_loop():
    async def fails() -> None:
        raise ValueError("no")

    told, over = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    Driven(fails(), lambda: over.append(True)).start()
    assert [str(error) for error in told] == ["no"]
    assert over == [True]
