"""A step with steps inside: it opens frames for them, and ends when they have."""

from functools import partial

from pipeline.workflow.doing import Doing, Error, Leaving, described, timed_out
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.frame import Frame
from pipeline.workflow.history import StepRecord, open_ones
from pipeline.workflow.journal import StepStarted
from pipeline.workflow.plan import Graph, Node
from pipeline.workflow.ports import Result
from pipeline.workflow.states import StepState
from pipeline.workflow.values import checked


class Composite(Doing):
    """What it has come to so far is not journalled for itself: it follows from the steps inside. So it is taken up, and
    tried again, by going through them from the first one on, and those that were completed are not done again.
    `blemished`: one inside failed, and it went on."""

    __slots__ = (
        "_again_at",
        "_emptying",
        "_going",
        "_known",
        "_leaving",
        "_over",
        "_since",
        "_waiting",
        "blemished",
        "frames",
        "kept",
    )

    def __init__(self, frame: Frame, node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self.frames: set[Frame] = set()
        self.blemished = False
        self._going = False
        self._over = False
        self._waiting = False  # for the next attempt
        self._emptying = False  # what was under way inside has been cancelled, and is not gone yet
        self._leaving: Leaving | None = None  # who waits for that
        self.kept = frame.kept
        if self.kept is None and node.step.retry is not None:
            self.kept = {}
        self._known = record is not None and record.state is StepState.RUNNING  # it has been said that it began
        self._since = record.attempt_at if record is not None and self._known else None
        self._again_at = record.again_at if record is not None and record.state is StepState.RETRYING else None

    # For the types of steps.

    def open(self) -> None:
        """Reads what it needs. Raises `StepFailed`."""

    def advance(self) -> bool:
        """Opens the next frame, or ends the step; whether it should be asked again at once. Raises `StepFailed`."""
        raise NotImplementedError

    def took(self, frame: Frame) -> None:
        """A frame has closed: keeps what it came to. Raises `StepFailed`."""
        raise NotImplementedError

    # Its life.

    def begin(self) -> None:
        self.disarm()
        if self.dropped or self.run.hold(self.begin) or self.run.later(self.begin):
            return
        if self._again_at is not None:
            pause, self._again_at = self._again_at - self.run.now(), None
            self.again(pause)
            return
        if not self._known:
            self.attempt += 1
            self.run.queue(StepStarted(self.run.now(), self.path, self.attempt))
        left = self._time_left()
        if left is not None:
            if left <= 0.0:
                self._expire()
                return
            self.timer = self.run.loop.call_later(left, self._expire)
            self.run.limits[self.path] = self.run.now() + left
        try:
            self.open()
        except StepFailed as failure:
            self.give_up(described(failure, self.path))
            return
        self.go()

    def seconds(self) -> float | None:
        """How long an attempt may take."""
        limit: float | None = self.node.step.timeout_seconds
        return limit

    def _time_left(self) -> float | None:
        """After a restart and a pause it is given all of it again. That in which its run was waiting counts: else an
        attempt whose steps only wait would never come to its limit."""
        seconds = self.seconds()
        if seconds is None or self._since is None or not self.run.woken:
            return seconds
        return seconds - max(self.run.now() - self._since, 0.0)

    def disarm(self) -> None:
        super().disarm()
        self.run.limits.pop(self.path, None)

    def go(self) -> None:
        """Advances as far as it can. Frames that close at once (nothing in them is left to do) do not nest."""
        if self._going or self._over or self.dropped:
            return
        self._going = True
        try:
            while not (self._over or self.dropped) and self.advance():
                if self.run.later(self.go):
                    break
        except StepFailed as failure:
            self.give_up(described(failure, self.path))
        finally:
            self._going = False

    def enter(self, graph: Graph, turn: int | None = None, **options: object) -> Frame:
        """Opens a frame; it may close before this returns."""
        prefix = f"{self.path}/" if turn is None else f"{self.path}[{turn}]/"
        options = {"inputs": self.frame.inputs, "outer": self.frame, "kept": self.kept, **options}
        frame = Frame(self.run, self, graph, prefix, **options)  # type: ignore[arg-type]
        self.frames.add(frame)
        return frame

    def closed(self, frame: Frame) -> None:
        if self._over or self.dropped or frame not in self.frames:
            return
        if self.run.later(self.closed, frame):
            return
        self.frames.discard(frame)
        self.blemished = self.blemished or frame.blemished
        try:
            self.took(frame)
        except StepFailed as failure:
            self.give_up(described(failure, self.path))
            return
        self.go()

    def finish(self, result: Result) -> None:
        """It has come to this. What is too large fails it."""
        self._over = True
        try:
            result = checked(result, self.run.shared.section.max_value_bytes)
        except StepFailed as failure:
            self.failed(described(failure, self.path))
        else:
            if self.blemished:
                self.frame.blemished = True
                self.run.blemishes.add(self.path)
            self.completed(result)

    # Failures.

    def failed_inside(self, frame: Frame, error: Error) -> None:
        if frame in self.frames:
            self.give_up(error)

    def give_up(self, error: Error) -> None:
        """This attempt has failed: cancels what is under way inside, and waits for it to be gone."""
        self.disarm()
        if self._over or self.dropped:
            return
        self._over = True
        frames, self.frames = self.frames, set()
        self.run.busy += 1
        self._emptying = True
        leaving = Leaving(partial(self._empty, error))
        for frame in frames:
            frame.drop(leaving)
        leaving.gone()

    def _empty(self, error: Error) -> None:
        self.run.busy -= 1
        self._emptying = False
        if self._leaving is not None:
            self._leaving.gone()
        elif not self.dropped:
            self.failed(error)

    def _expire(self) -> None:
        self.timer = None
        self.run.rouse()
        self.give_up(timed_out(self.seconds() or 0.0, self.path))

    def again(self, seconds: float) -> None:
        self._waiting = True
        self.run.busy += 1
        self.timer = self.run.loop.call_later(max(seconds, 0.0), self._anew)

    def _anew(self) -> None:
        """The next attempt is a new one in this one's place; what was completed inside stays completed."""
        self._rest()
        self.timer = None
        if self.dropped or self.run.hold(self._anew):
            return
        record = StepRecord(self.path, attempt=self.attempt, failures=self.failures)
        following = self.frame.replace(self, record)
        inside = (f"{self.path}/", f"{self.path}[")
        known = self.run.records
        # What is still known of the attempt before, from before a restart.
        for path in [path for path, one in known.items() if path.startswith(inside) and not one.counts]:
            del known[path]
        if isinstance(following, Composite) and self.kept:
            following.kept = self.kept
            known.update(open_ones({path: one for path, one in self.kept.items() if path.startswith(inside)}))
        following.begin()

    def _rest(self) -> None:
        if self._waiting:
            self._waiting = False
            self.run.busy -= 1

    def drop(self, leaving: Leaving) -> None:
        if self.dropped:
            return
        super().drop(leaving)
        self._rest()
        if self._emptying:
            leaving.wait()
            self._leaving = leaving
        frames, self.frames = self.frames, set()
        for frame in frames:
            frame.drop(leaving)
