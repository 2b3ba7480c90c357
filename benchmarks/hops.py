"""What the five hops cost by themselves: real queues and the real run loop, handlers without work."""

import asyncio
import time
from typing import Any

import uvloop

from pipeline.core.messages import PromptRequest
from pipeline.core.outcomes import STAGES, Place, Reason
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.stages.base import Stage
from workers.base import Parameters

IN_FLIGHT = 64


class _Hop(Stage[PromptRequest, PromptRequest]):
    def __init__(self, place: Place, following: Stage[Any, Any] | None) -> None:
        self.place = place
        super().__init__(StageQueue(1024), following, 1024, time.monotonic)

    def handle(self, message: PromptRequest) -> PromptRequest | None:
        if self.place is not Place.STREAM:
            return message
        message.request.ticket.end(Reason.DONE, self.clock())
        return None


class Line:
    """Five stages that do nothing. `requests` makes `IN_FLIGHT` requests, `send` puts them through."""

    def __init__(self) -> None:
        following: Stage[Any, Any] | None = None
        stages: list[Stage[Any, Any]] = []
        for place in reversed(STAGES):
            following = _Hop(place, following)
            stages.append(following)
        self.first = stages[-1]
        self._tasks = [asyncio.ensure_future(stage.run()) for stage in stages]
        self._left = 0
        self._done: asyncio.Future[None] | None = None

    def requests(self) -> list[PromptRequest]:
        tickets = [Ticket("r", 0.0, self._ended) for _ in range(IN_FLIGHT)]
        return [PromptRequest(t, "r", None, "echo", (), "", Parameters(), stream=False, deadline=1e18) for t in tickets]

    async def send(self, requests: list[PromptRequest]) -> None:
        self._left = len(requests)
        self._done = asyncio.get_running_loop().create_future()
        for request in requests:
            self.first.offer(request, time.monotonic())
        await self._done

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, _ticket: Ticket) -> None:
        self._left -= 1
        if not self._left and self._done is not None:
            self._done.set_result(None)


async def _measure(rounds: int) -> float:
    line = Line()
    for _ in range(rounds // 5):
        await line.send(line.requests())
    took = 0.0
    for _ in range(rounds):
        requests = line.requests()
        began = time.process_time()
        await line.send(requests)
        took += time.process_time() - began
    await line.stop()
    return took / rounds / IN_FLIGHT * 1e6


def hop_microseconds(rounds: int = 500) -> float:
    """CPU microseconds a request for five hops."""
    return uvloop.run(_measure(rounds))
