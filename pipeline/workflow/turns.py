"""Who may use the event loop now: what workflows fill in is done in short turns, so that prompts and other runs have
theirs in between."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

BUDGET = 0.01  # seconds that workflows begin things in, in one turn of the loop
_LONGEST_REST = 0.25
_WOKEN = 16  # tasks that go on in one turn: how long each takes is seen only then

_Next = Callable[[], None] | asyncio.Future[None]


class Turns:
    """Whoever may not begin now stands in line, and runs take turns. A turn begins when somebody asks and ends when the
    loop has come around; `number` counts them. After one that took much longer than it should have, others have the
    loop for as long."""

    __slots__ = ("_called", "_lines", "_loop", "_resting", "_since", "number")

    def __init__(self) -> None:
        self.number = 0
        self._loop: asyncio.AbstractEventLoop
        self._lines: OrderedDict[object, deque[_Next]] = OrderedDict()
        self._since: float | None = None
        self._resting = False
        self._called = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def waits(self, who: object) -> bool:
        return who in self._lines

    def spent(self) -> bool:
        """Whether this turn has been long enough."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._loop.call_soon(self._end)
            return False
        return now - self._since > BUDGET

    def free(self) -> bool:
        """Whether something may begin now. Else it is to stand in line."""
        if self._called:
            self._called = False
            return True
        return not self._lines and not self._resting and not self.spent()

    def line(self, who: object, then: _Next) -> None:
        """To be called right after `free`, or `spent`, has said so."""
        line = self._lines.get(who)
        if line is None:
            line = self._lines[who] = deque()
        line.append(then)

    async def turn(self, who: object) -> None:
        """Waits for a turn, where this one has been long enough."""
        if self.free():
            return
        while True:
            called = self._loop.create_future()
            self.line(who, called)
            await called
            if not self.spent():
                return

    def _end(self) -> None:
        since, self._since = self._since, None
        self.number += 1
        if not self._lines or since is None:
            return
        rest = min(time.monotonic() - since - 2 * BUDGET, _LONGEST_REST)
        if rest > 0.0:
            self._resting = True
            self._loop.call_later(rest, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._resting = False
        woken = 0
        while not self.spent() and self._lines and woken < _WOKEN:
            who, line = self._lines.popitem(last=False)
            following = line.popleft()
            if line:
                self._lines[who] = line
            if isinstance(following, asyncio.Future):
                if not following.done():
                    following.set_result(None)
                    woken += 1
                continue
            self._called = True
            following()
            self._called = False
