"""A `ModelWorker` around an object of a class that somebody wrote for Headgate.

What such a class may do is described in docs/how-to/write-a-worker.md.
"""

import asyncio
import contextlib
import inspect
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from workers.answer import Answer, broken
from workers.base import (
    DeltaBatch,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Health,
    ModelWorker,
)
from workers.errors import WorkerError, WorkerErrorKind
from workers.local import refuse_several
from workers.python_results import batches_of, health_of, vectors_of, words_of
from workers.python_threads import Handed, once

_HEALTH_TIME = 2.0
_CLOSING = 0.5  # seconds for a generator that is closed to end
_MAX_LEFT = 64  # threads that go on though nobody waits for them
_LOG_EVERY = 1.0  # seconds
_MAX_LOGGED = 1000  # characters

_log = structlog.get_logger("headgate.workers")


class _Source(Protocol):
    async def take(self) -> Sequence[Any]:
        """The next items; none at the end."""
        ...

    async def close(self) -> None: ...


class Adapted:
    """`worker` is the object, `name` what messages call it. See `adapted`."""

    def __init__(self, worker: Any, name: str) -> None:
        self._worker = worker
        self._name = name
        self._several = bool(getattr(worker, "several_choices", False))
        self._left: set[Handed] = set()  # threads whose end nobody waits for
        self._running: set[Handed] = set()
        self._calling: set[asyncio.Task[Any]] = set()  # that wait for the object
        self._ended: set[asyncio.Task[Any]] = set()  # of those, the ones whose call was ended by closing
        self._closed = False
        self._log_after = 0.0
        self._unlogged = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        if not self._several:
            refuse_several(request, self._name)
        if request.native:
            request = msgspec.structs.replace(request, native=b"", native_dialect=None)
        answer = Answer(request)
        with self._failures("generate"):
            source = self._source(self._worker.generate(request))
        try:
            while True:
                with self._failures("generate"):
                    items = await source.take()
                if not items:
                    break
                for batch in batches_of(items):
                    checked = answer.take(batch)
                    if checked is not None:
                        yield checked
        finally:
            await source.close()
        last = answer.end()
        if last is not None:
            yield last

    async def health(self) -> Health:
        if not callable(getattr(self._worker, "health", None)):
            return Health(ok=True)
        try:
            async with asyncio.timeout(_HEALTH_TIME):
                return health_of(await self._result("health"))
        except TimeoutError:
            return Health(ok=False, detail=f"no answer within {_HEALTH_TIME:g} s")
        except WorkerError as error:
            return Health(ok=False, detail=error.message)

    async def aclose(self) -> None:
        """Ends the calls under way, then lets the object end."""
        if self._closed:
            return
        self._closed = True
        self._ended |= self._calling
        for task in self._ended:
            task.cancel()
        for thread in (*self._running, *self._left):
            thread.close()
        if callable(getattr(self._worker, "aclose", None)):
            with contextlib.suppress(TimeoutError, WorkerError):
                async with asyncio.timeout(_HEALTH_TIME):
                    await self._result("aclose")

    async def _result(self, method: str, *given: Any) -> Any:
        """Of a method that may be `async def`; a plain one may block, and runs in a thread. Raises `WorkerError`."""
        function = getattr(self._worker, method)
        with self._failures(method):
            if inspect.iscoroutinefunction(function):
                return await function(*given)
            thread = self._thread(once(lambda: function(*given)))
            try:
                (result,) = await thread.take()
            finally:
                self._leave(thread)
            return await result if inspect.isawaitable(result) else result

    def _source(self, answer: Any) -> _Source:
        """Raises `WorkerError` for what is no generator."""
        if hasattr(answer, "__anext__"):
            return _OnLoop(answer, self._raised)
        if hasattr(answer, "__aiter__"):
            return _OnLoop(aiter(answer), self._raised)
        if hasattr(answer, "__next__"):
            return _InThread(self._thread(answer), self._leave)
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that nobody awaited it
        raise broken(f"generate gave a {type(answer).__name__}; it has to be a generator, with yield in it")

    def _thread(self, items: Iterator[Any]) -> Handed:
        if len(self._left) >= _MAX_LEFT:
            raise WorkerError(
                WorkerErrorKind.OVERLOADED,
                f"{_MAX_LEFT} calls of worker {self._name!r} that nobody waits for still run",
                retryable=True,
            )
        thread = Handed(items, self._thread_ended)
        thread.start()
        self._running.add(thread)
        return thread

    def _leave(self, thread: Handed) -> None:
        thread.close()
        if thread in self._running:
            self._running.discard(thread)
            self._left.add(thread)

    def _thread_ended(self, thread: Handed) -> None:
        self._running.discard(thread)
        self._left.discard(thread)

    @contextlib.contextmanager
    def _failures(self, method: str) -> Iterator[None]:
        """Turns what the object raises into `WorkerError`; the text of other exceptions is for the log only."""
        if self._closed and method != "aclose":
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "the worker is closed")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - all of this is awaited by one
        self._calling.add(task)
        try:
            yield
        except WorkerError as error:
            if not isinstance(error.kind, WorkerErrorKind):
                raise broken(f"it raised a WorkerError of kind {str(error.kind)[:40]!r}, which there is not") from error
            if error.kind is not WorkerErrorKind.AUTH:
                raise
            self._raised(method, error)
            raise WorkerError(
                error.kind, "the worker's own credentials were refused"
            ) from None  # words may repeat them
        except asyncio.CancelledError:
            closed = task in self._ended
            if task.cancelling() and (not closed or task.uncancel()):
                raise
            if closed:
                raise WorkerError(WorkerErrorKind.RESET, "the worker was closed during the call") from None
            raise broken("the call was cancelled from within") from None
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _running() is not task:
                raise  # nobody waits for this call any more: it is thrown away, not failed
            self._raised(method, error)
            raise WorkerError(
                WorkerErrorKind.UNAVAILABLE, f"the worker's {method} raised {type(error).__name__}", retryable=True
            ) from None
        finally:
            self._calling.discard(task)
            self._ended.discard(task)

    def _raised(self, method: str, error: BaseException) -> None:
        """Logs it, with where it was; at most once a second."""
        now = time.monotonic()
        if now < self._log_after:
            self._unlogged += 1
            return
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        frames = traceback.extract_tb(cause.__traceback__)
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        text = words_of(error)[:_MAX_LOGGED]
        _log.warning("worker_raised", worker=self._name, method=method, error=text, at=where, unlogged=self._unlogged)
        self._log_after, self._unlogged = now + _LOG_EVERY, 0


class _Embedding(Adapted):
    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        result = await self._result("embed", request)
        embeddings = result if isinstance(result, Embeddings) else Embeddings(vectors_of(result))
        if embeddings.body and not embeddings.vectors:
            return embeddings
        if len(embeddings.vectors) != len(request.inputs):
            raise broken(f"{len(embeddings.vectors)} vectors for {len(request.inputs)} inputs")
        return msgspec.structs.replace(embeddings, vectors=vectors_of(embeddings.vectors))


class _Counting(Adapted):
    async def count_tokens(self, request: GenerationRequest) -> int | None:
        count = await self._result("count_tokens", request)
        if count is not None and (count.__class__ is not int or count < 0):
            raise broken("count_tokens gave no count")
        return count


class _EmbeddingAndCounting(_Embedding, _Counting):
    pass


_CLASSES: dict[tuple[bool, bool], type[Adapted]] = {
    (False, False): Adapted,
    (True, False): _Embedding,
    (False, True): _Counting,
    (True, True): _EmbeddingAndCounting,
}


def adapted(worker: Any, name: str) -> ModelWorker:
    """A `ModelWorker`, and `EmbeddingWorker` and `CountingWorker` where the object has `embed` and `count_tokens`.

    `generate` may be an async generator, or a plain one that runs in a thread; it yields `str`, `Delta` or
    `DeltaBatch`. What it lacks of a whole answer is added; what is wrong with it becomes `WorkerError`.
    """
    has = [callable(getattr(worker, method, None)) for method in ("embed", "count_tokens")]
    return _CLASSES[has[0], has[1]](worker, name)


class _OnLoop:
    """An async generator."""

    def __init__(self, items: Any, failed: Callable[[str, BaseException], None]) -> None:
        self._items = items
        self._failed = failed

    async def take(self) -> Sequence[Any]:
        try:
            return (await anext(self._items),)
        except StopAsyncIteration:
            return ()

    async def close(self) -> None:
        if not hasattr(self._items, "aclose"):
            return
        try:
            async with asyncio.timeout(_CLOSING):
                await self._items.aclose()
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            self._failed("generate", error)


def _running() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # there is no event loop any more
        return None


class _InThread:
    """A generator that may block."""

    def __init__(self, thread: Handed, leave: Callable[[Handed], None]) -> None:
        self._thread = thread
        self._leave = leave

    async def take(self) -> Sequence[Any]:
        return await self._thread.take()

    async def close(self) -> None:
        self._leave(self._thread)
