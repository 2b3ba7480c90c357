"""An `OutputSink` that keeps the answer: for the demonstration, the terminal and tests."""

import asyncio
from collections.abc import Awaitable, Callable

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from workers.base import Delta, Usage


class MemorySink:
    """Collects one answer. `await done()` returns its text or raises the error it ended with.

    `on_text(text)` is called with each piece as it comes.
    """

    def __init__(self, on_text: Callable[[str], None] | None = None) -> None:
        self.message: PostOutput | None = None
        self.deltas: list[Delta] = []
        self.writes = 0
        self.usage: Usage | None = None
        self._on_text = on_text
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    async def done(self) -> str:
        await self._done
        return self.text

    async def ended(self) -> None:
        """Waits for the end, whichever it is."""
        await asyncio.wait([self._done])

    def begin(self, message: PostOutput) -> Awaitable[None] | None:
        self.message = message
        return None

    def write(self, answer: Answer) -> Awaitable[None] | None:
        self.writes += 1
        self.deltas.extend(answer.deltas)
        if self._on_text is not None:
            for delta in answer.deltas:
                self._on_text(delta.text)
        return None

    def finish(self, usage: Usage | None) -> Awaitable[None] | None:
        self.usage = usage
        if not self._done.done():
            self._done.set_result(None)
        return None

    def fail(self, error: HeadgateError) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # seen, also when nobody waits
