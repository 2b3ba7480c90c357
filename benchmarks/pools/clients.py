"""Clients with sessions, and what each of their requests got."""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from benchmarks.load.answer import Answer, End
from benchmarks.load.wire import Wire

PATIENCE = 30.0  # seconds: an answer that takes longer does not come
RUN = "0b0015ed"  # of the marks, by which the simulated backends tell requests apart


class Done(NamedTuple):
    """One request: `number` is that of its mark."""

    number: int
    session: str
    answer: Answer

    @property
    def served(self) -> bool:
        return self.answer.end is End.WHOLE

    @property
    def why(self) -> str:
        answer = self.answer
        return answer.reason or answer.code or answer.detail or str(answer.end)


class Clients:
    """Sends requests to one daemon; must be made while a loop runs. `done` are those that have ended."""

    def __init__(self, port: int) -> None:
        self.done: list[Done] = []
        self._wire = Wire(f"http://127.0.0.1:{port}/v1")
        self._sent = 0

    async def ask(self, session: str, *, stream: bool) -> Done:
        number, self._sent = self._sent, self._sent + 1
        words = [{"role": "user", "content": f"#{RUN}.{number} word word"}]
        answer = await self._wire.ask(
            msgspec.json.encode({"model": "pool", "messages": words, "stream": stream}),
            headers=f"X-Session-Id: {session}\r\n".encode(),
            stream=stream,
            deadline=time.monotonic() + PATIENCE,
            leave=None,
            leave_at=None,
        )
        done = Done(number, session, answer)
        self.done.append(done)
        return done

    async def sessions(self, count: int, seconds: float, think: Callable[[], float], *, stream: bool) -> None:
        """So many sessions, each of which asks, thinks, and asks again, until the time is over. A session's first
        request comes after a share of its thinking, so that they are not all there at once."""
        until = time.monotonic() + seconds

        async def one(session: str) -> None:
            await asyncio.sleep(think())
            while time.monotonic() < until:
                await self.ask(session, stream=stream)
                await asyncio.sleep(think())

        await asyncio.gather(*[one(f"session-{number}") for number in range(count)])

    async def aclose(self) -> None:
        await self._wire.aclose()


def refusals(done: list[Done]) -> str:
    """Why requests failed, the reasons with their counts."""
    counts: dict[str, int] = {}
    for one in done:
        if not one.served:
            counts[one.why] = counts.get(one.why, 0) + 1
    return ", ".join([f"{count} {why}" for why, count in sorted(counts.items())])
