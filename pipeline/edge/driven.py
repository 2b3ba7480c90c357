"""A coroutine that runs without a task: at once, and again whenever the future that it waits for is done.

A task costs a turn of the event loop before its first step, and more than the steps of most requests. What is driven
may wait for futures only: not for `asyncio.timeout`, which wants a task.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Driven:
    """`over` is called once, when the coroutine has ended. An error goes to the event loop's exception handler."""

    __slots__ = ("_coroutine", "_over", "_waiting", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, None], over: Callable[[], None]) -> None:
        self.done = False
        self._coroutine = coroutine
        self._over = over
        self._waiting: asyncio.Future[Any] | None = None

    def start(self) -> None:
        self._step(None)

    def cancel(self) -> None:
        """As a task is cancelled, but at once."""
        waiting, self._waiting = self._waiting, None
        if self.done or waiting is None:
            return
        waiting.remove_done_callback(self._step)
        self._run(self._coroutine.throw, asyncio.CancelledError())

    def _step(self, done: "asyncio.Future[Any] | None") -> None:
        if self.done or done is not self._waiting:  # cancelled when this call was already on its way
            return
        self._waiting = None
        self._run(self._coroutine.send, None)

    def _run(self, resume: Callable[[Any], Any], given: Any) -> None:
        try:
            waiting = resume(given)
        except (StopIteration, asyncio.CancelledError):
            self._end()
        except Exception as error:  # noqa: BLE001 - as of a task that nobody waits for
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a relayed request's handler failed", "exception": error})
            self._end()
        else:
            waiting._asyncio_future_blocking = False  # noqa: SLF001 - what a task does with what it was given
            self._waiting = waiting
            waiting.add_done_callback(self._step)

    def _end(self) -> None:
        self.done = True
        self._over()
