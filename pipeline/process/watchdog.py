"""Notices an event loop that stands still, and tells on what: a thread beside it looks twenty times a second."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

INTERVAL = 0.05  # seconds between two beats of the loop, and between two looks of the thread
STACK_EVERY = 1.0  # seconds: no more than one stack in that time
_END_WITHIN = 1.0  # seconds that `stop` waits for the thread at most
_MOST_FRAMES = 40  # the innermost ones
_MOST_CHARS = 3000  # of a stack: a line of 4 KiB is never torn on its way out


class _Beat(NamedTuple):
    """One turn of the loop, in seconds: when it should have come, when it came, and the process's CPU time then."""

    due: float
    at: float
    cpu: float


class Watchdog:
    """Logs `event_loop_stalled` with the running stack while a loop has not turned for more than `stall` seconds, and
    `event_loop_resumed` once it has.

    At most one stack is logged a second; how many stalls had none is told with the next. The stack names files, lines
    and functions, and no values: those may be prompts. `count` is called in the loop after each stall, however short
    its notice was, with its length in seconds.

    A stall is measured from when the loop should have turned, so it lasted up to 50 ms longer than is said. A loop that
    stands in C code which keeps the interpreter's lock is seen when that returns, with the stack that called it. Where
    the process as a whole was stopped or got no CPU, the stack is innocent; `cpu_ms` then is far below `stalled_ms`.
    """

    def __init__(self, log: FilteringBoundLogger, stall: float, count: Callable[[float], None]) -> None:
        self._log = log
        self._stall = stall
        self._count = count
        self._beat = _Beat(0.0, 0.0, 0.0)
        self._stalls = 0  # that are over
        self._timer: asyncio.TimerHandle | None = None
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        # The thread writes these: the beat after which the stall began that was logged last, how many stalls were
        # known then, that one among them, and when the next may be logged.
        self._reported: _Beat | None = None
        self._told = 0
        self._next_stack = 0.0
        self._over: tuple[_Beat, _Beat] | None = None  # the beats before and after the stall that was reported

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """To be called in the thread of `loop`, once."""
        now = time.monotonic()
        self._beat = _Beat(now, now, time.process_time())
        self._loop_thread = threading.get_ident()
        self._timer = loop.call_later(INTERVAL, self._turn, loop)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """To be called in the loop; may be repeated. Waits for the thread, which has at most a line to write."""
        if self._timer is None or self._thread is None:
            return
        self._timer.cancel()
        self._timer = None
        self._note()  # a stall that has just ended
        self._end.set()
        self._thread.join(_END_WITHIN)

    def configure(self, stall: float) -> None:
        """From now on."""
        self._stall = stall

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(INTERVAL, self._turn, loop)
        self._note()

    def _note(self) -> None:
        before, now = self._beat, time.monotonic()
        self._beat = beat = _Beat(before.at + INTERVAL, now, time.process_time())
        if before is self._reported:
            self._over = before, beat
        if now - beat.due > self._stall:
            self._stalls += 1
            self._count(now - beat.due)

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self._resumed()
            self._look(time.monotonic())
        self._resumed()

    def _look(self, now: float) -> None:
        beat, stalls = self._beat, self._stalls
        stood = now - (beat.at + INTERVAL)
        if stood <= self._stall or beat is self._reported or now < self._next_stack:
            return
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the only way to another thread's stack
        self._reported = beat
        if frame is None or self._beat is not beat:  # it has turned meanwhile: this is the stack of something else
            self._reported = self._over = None
            return
        left_out, self._told = stalls - self._told, stalls + 1
        self._next_stack = now + STACK_EVERY
        self._log.warning("event_loop_stalled", stalled_ms=_ms(stood), left_out=left_out, frames=stack(frame))

    def _resumed(self) -> None:
        if self._over is None:
            return
        before, after = self._over
        self._over = None
        spent = after.cpu - before.cpu
        self._log.warning("event_loop_resumed", stalled_ms=_ms(after.at - after.due), cpu_ms=_ms(spent))


def stack(frame: FrameType) -> str:
    """The innermost calls, the last one last, as in a traceback; what is too much is cut off at the outer end."""
    found = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_MOST_FRAMES, lookup_lines=False)
    lines = [f"{each.filename}:{each.lineno} in {each.name}" for each in found]  # the innermost first
    text = ""
    for line in lines:
        if len(text) + len(line) >= _MOST_CHARS:
            return "…\n" + text
        text = f"{line}\n{text}"
    return text


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
