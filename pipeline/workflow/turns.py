"""Who may use the event loop now: what workflows fill in is done in short turns, so that prompts and other runs have
theirs in between."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from pipeline.workflow import template_values

BUDGET = 0.01  # seconds that workflows begin things in, in one turn of the loop
_LONGEST_REST = 0.25
_MOST_WOKEN = 16  # tasks that go on in one turn: how long each takes is seen only then

_Next = Callable[[], None] | asyncio.Future[None]


class Turns:
    """Whoever may not begin now stands in line, and runs take turns. A turn begins when somebody asks and ends when the
    loop has come around; `number` counts them. After one that took much longer than it should have, those in line leave
    the loop to others for as long."""

    __slots__ = ("_called", "_lines", "_loop", "_resting", "_since", "_woken", "number")

    def __init__(self) -> None:
        self.number = 0
        self._loop: asyncio.AbstractEventLoop
        self._lines: OrderedDict[object, deque[_Next]] = OrderedDict()
        self._since: float | None = None
        self._resting = False
        self._called = False
        self._woken = 1

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

    def free(self, who: object) -> bool:
        """Whether something may begin now. Else it is to stand in line. A run that has nobody there goes ahead of those
        that have."""
        if self._called:
            self._called = False
            return True
        return who not in self._lines and not self.spent()

    def line(self, who: object, then: _Next) -> None:
        """To be called right after `free`, or `spent`, has said so."""
        line = self._lines.get(who)
        if line is None:
            line = self._lines[who] = deque()
        line.append(then)

    async def turn(self, who: object) -> None:
        """Waits for a turn, where this one has been long enough."""
        if self.free(who):
            return
        while True:
            called = self._loop.create_future()
            self.line(who, called)
            await called
            if not self.spent():  # by those that were called with it
                return

    def _end(self) -> None:
        since, self._since = self._since, None
        self.number += 1
        template_values.forget()
        if not self._lines or self._resting or since is None:
            return
        took = time.monotonic() - since
        self._woken = 1 if took > BUDGET else min(2 * self._woken, _MOST_WOKEN)
        rest = min(took - 2 * BUDGET, _LONGEST_REST)
        if rest > 0.0:
            self._resting = True
            self._loop.call_later(rest, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._resting = False
        woken = 0
        while not self.spent() and self._lines and woken < self._woken:
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
