"""A worker as Inference calls it: its replicas, which of them serves a call, and whether a failed one is made again."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from math import inf
from typing import NamedTuple

from pipeline.policy.pool import Attempt, Pool, Replica, Result
from pipeline.policy.retry import RetryBudget, pause
from pipeline.stages.limits import CallLimits
from workers import canonical
from workers.base import Delta, DeltaBatch, EmbeddingRequest, EmbeddingWorker, ModelWorker
from workers.errors import WorkerError, WorkerErrorKind

_NOT_FOUND = 404


class Retrying(NamedTuple):
    """`attempts` after the first, and the pauses before them, in seconds: drawn from zero to `base`, doubled each time,
    `cap` at most. A backend that asks for a longer one is not asked again."""

    attempts: int = 0
    base: float = 0.05
    cap: float = 2.0


class CircuitOpen(WorkerError):
    """No replica may be called now; `retry_after` says when one may be tried."""

    def __init__(self, wait: float) -> None:
        super().__init__(
            WorkerErrorKind.UNAVAILABLE, "all its replicas have failed too often to be called now", retry_after=wait
        )


class BrokenOff(WorkerError):
    """A call was broken off because its replica says nothing any more; the retry has been taken from the budget."""

    def __init__(self) -> None:
        super().__init__(WorkerErrorKind.UNAVAILABLE, "it does not answer any more", retryable=True)


def missing(error: WorkerError) -> bool:
    """Whether a replica does not know what it is asked for, which another one may: a model that is not loaded."""
    return error.status == _NOT_FOUND and error.kind is WorkerErrorKind.BAD_REQUEST


class Backend:
    """`replicas` in the order of the pool's. `high_water` deltas may wait for a slow client. `calls` are under way,
    each with a place of the worker's lane, whatever it is doing at the moment. `before` is the one whose place it
    takes, with the same pool: who waits there for a replica waits for one of these now."""

    def __init__(
        self,
        replicas: Sequence[ModelWorker],
        pool: Pool,
        limits: CallLimits,
        high_water: int,
        *,
        retrying: Retrying = Retrying(),  # noqa: B008 - a tuple
        before: "Backend | None" = None,
    ) -> None:
        self.replicas = replicas
        self.pool = pool
        self.limits = limits
        self.high_water = high_water
        self.retrying = retrying
        self.budget: RetryBudget = RetryBudget(0.0) if before is None else before.budget
        self.calls = 0
        self.waiting: deque[asyncio.Future[None]] = deque() if before is None else before.waiting
        # Calls without a first delta, and how each is broken off to be made again.
        self.unanswered: dict[Attempt, Callable[[WorkerError], bool]] = {} if before is None else before.unanswered
        self.after: Backend | None = None  # that took its place
        if before is not None:
            before.after = self

    @property
    def current(self) -> "Backend":
        """The one whose replicas are the pool's now."""
        backend = self
        while backend.after is not None:
            backend = backend.after
        return backend

    async def place(self, session: str | None, tried: Collection[Replica], clock: Callable[[], float]) -> Attempt:
        """Books a call at the replica that is to serve it; waits where all are full. It is one of those of `current`.
        Raises `CircuitOpen`."""
        while True:
            now = clock()
            attempt = self.pool.choose(session, now, [replica.index for replica in tried] if tried else ())
            if attempt is not None:
                return attempt
            wait = self.pool.wait(now)
            if wait > 0.0:
                raise CircuitOpen(wait)
            await self._vacancy()

    def ended(self, attempt: Attempt, now: float, result: Result, hold: float | None = None) -> None:
        """A call is over, however, and its replica has room for another one."""
        self.unanswered.pop(attempt, None)
        self.pool.ended(attempt, now, result, hold)
        self._wake()

    def again(
        self,
        error: WorkerError,
        tried: Sequence[Replica],
        chance: float,
        now: float,
        latest: float,
        *,
        elsewhere: bool = False,
        missed: bool = False,
    ) -> float | None:
        """Seconds until a call that failed before its first delta is made again; None: it is not, as when that would
        be `latest` or after, or no replica may be called then. `tried` are the replicas that were asked, in turn;
        `elsewhere` says that another worker could be asked at once, `missed` that one replica has not had the model
        already: the first time, another one is asked."""
        if len(tried) > self.retrying.attempts or isinstance(error, CircuitOpen):
            return None
        another = self.pool.another(tried, now)
        if error.retryable and not error.kind.of_request:
            seconds = 0.0 if another else self._pause(error, len(tried), chance, elsewhere=elsewhere)
        else:
            seconds = 0.0 if another and missing(error) and not missed else inf
        if now + seconds >= latest or self.pool.wait(now) > seconds:
            return None
        # What could not connect has cost the backend nothing: to ask another one makes no storm.
        free = isinstance(error, BrokenOff) or (another and error.kind is WorkerErrorKind.UNREACHABLE)
        if not free and not self.budget.take():
            return None
        self.pool.retries += 1
        return seconds

    def stuck(self, replica: Replica, now: float) -> None:
        """Calls that hang there take the last places of the worker, while others answer. They would keep them until
        they time out."""
        replica.hold(None, now, now)
        self.down(replica, now)

    def down(self, replica: Replica, now: float) -> None:
        """A replica says nothing any more: its calls that have no answer yet are made again where there is another one,
        as far as the budget goes."""
        if not self.pool.another((replica,), now):
            return
        calls = [leave for attempt, leave in self.unanswered.items() if attempt.replica is replica]
        for leave in calls:
            if self.budget.balance < 1.0:
                return
            if leave(BrokenOff()):
                self.budget.take()

    def _pause(self, error: WorkerError, made: int, chance: float, *, elsewhere: bool) -> float:
        """Seconds before a replica is asked again, infinite where it is not."""
        rules = self.retrying
        if elsewhere and error.kind is WorkerErrorKind.UNREACHABLE:
            return inf  # whoever is not there will not be in a moment
        seconds = max(pause(made - 1, rules.base, rules.cap, chance), error.retry_after or 0.0)
        return seconds if seconds <= rules.cap else inf

    def changed(self) -> None:
        """There may be room again, or nothing left to wait for."""
        for _ in range(len(self.waiting)):
            self._wake()

    async def aclose(self) -> None:
        for replica in self.replicas:
            await replica.aclose()

    async def _vacancy(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._wake()  # somebody else's turn
            raise
        finally:
            if place in self.waiting:
                self.waiting.remove(place)

    def _wake(self) -> None:
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(None)
                return


async def embedded(worker: ModelWorker, request: EmbeddingRequest) -> AsyncGenerator[DeltaBatch, None]:
    """An embedding as an answer: one batch, whose body is OpenAI's list object. Raises `WorkerError`."""
    if not isinstance(worker, EmbeddingWorker):
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the worker of this model cannot embed")
    answer = await worker.embed(request)
    yield DeltaBatch((Delta(finish_reason="stop"),), answer.usage, canonical.embeddings(request, answer))
