"""The `python` worker: classes that are well written, and those that are not."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
import structlog

from tests.workers.helpers import ask, told
from workers.base import CountingWorker, Delta, DeltaBatch, EmbeddingRequest, Embeddings, EmbeddingWorker, Health, Usage
from workers.errors import WorkerError, WorkerErrorKind
from workers.python_adapter import adapted

Kind = WorkerErrorKind


def of(function: Any, **methods: Any) -> Any:
    """An object whose `generate` is the function."""
    return type("Own", (), {"generate": function, **methods})()


@asynccontextmanager
async def calling(worker: Any) -> AsyncIterator[Any]:
    """Fails when a task or a thread is left behind, or something went wrong that nobody was told."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    before = asyncio.all_tasks()
    made = adapted(worker, "own")
    async with asyncio.timeout(20):
        yield made
    await made.aclose()
    assert not [task for task in asyncio.all_tasks() - before if not task.done()]
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "headgate worker"])
    await asyncio.sleep(0)
    assert not unheard, unheard


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def refused(worker: Any, request: Any = None) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        await told(worker, request or ask())
    return raised.value


# What is yielded.


async def test_an_async_generator_of_texts():
    async def generate(self, request):
        for word in request.messages[-1].text.split():
            yield word + " "

    async with calling(of(generate)) as worker:
        answer = await told(worker, ask("a b"))
        assert (answer.text, answer.reasons) == ("a b ", {0: ["stop"]})
        whole = await told(worker, ask("a b", stream=False))
        assert (whole.text, whole.reasons, len(whole.batches)) == ("a b ", {0: ["stop"]}, 1)


async def test_a_plain_generator_runs_elsewhere():
    threads: list[Any] = []

    def generate(self, request):
        threads.append(threading.current_thread())
        yield from request.messages[-1].text

    async with calling(of(generate)) as worker:
        assert (await told(worker, ask("hello"))).text == "hello"
        assert threads[0] is not threading.main_thread()


async def test_a_mixture_of_what_may_be_yielded():
    async def generate(self, request):
        yield "a"
        yield Delta("b")
        yield DeltaBatch((Delta("c"), Delta("d", 0, "length")), Usage(1, 2))

    async with calling(of(generate)) as worker:
        answer = await told(worker, ask())
        assert (answer.text, answer.reasons, answer.usages) == ("abcd", {0: ["length"]}, [Usage(1, 2)])


async def test_several_choices_are_for_classes_that_say_so():
    async def generate(self, request):
        for index in range(request.parameters.n):
            yield Delta("x", index)

    async with calling(of(generate)) as worker:
        assert (await refused(worker, ask(n=2))).kind is Kind.BAD_REQUEST
    async with calling(of(generate, several_choices=True)) as worker:
        assert (await told(worker, ask(n=2))).reasons == {0: ["stop"], 1: ["stop"]}


@pytest.mark.parametrize("item", [5, None, b"bytes", {"text": "a"}, ["a"]])
@pytest.mark.parametrize("plain", [True, False])
async def test_what_may_not_be_yielded(item, plain):
    async def waiting(self, request):
        yield item

    def blocking(self, request):
        yield item

    async with calling(of(blocking if plain else waiting)) as worker:
        error = await refused(worker)
        assert error.kind is Kind.PROTOCOL
        assert f"yielded a {type(item).__name__}" in error.message


async def test_a_generate_that_is_no_generator():
    async def coroutine(self, request):
        return "a"

    def text(self, request):
        return "a"

    for function in (coroutine, text):
        async with calling(of(function)) as worker:
            error = await refused(worker)
            assert error.kind is Kind.PROTOCOL
            assert "yield" in error.message


# What is raised.


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("sk-1 secret"),
        SystemExit(3),
        StopIteration(),
        KeyError("sk-1"),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseException("sk-1"),
    ],
)
async def test_other_exceptions_are_named_to_clients_and_told_to_the_log(plain, error):
    async def waiting(self, request):
        yield "a"
        raise error

    def blocking(self, request):
        yield "a"
        raise error

    with structlog.testing.capture_logs() as logs:
        async with calling(of(blocking if plain else waiting)) as worker:
            failure = await refused(worker)
            await refused(worker)
    assert (failure.kind, failure.retryable) == (Kind.UNAVAILABLE, True)
    assert "sk-1" not in failure.message
    (line,) = logs  # at most one a second
    assert (line["event"], line["worker"]) == ("worker_raised", "own")
    assert "test_python_worker.py:" in line["at"]


async def test_a_worker_error_goes_through_but_for_words_about_credentials():
    kinds = [Kind.CONTEXT_TOO_LONG, Kind.AUTH, "no kind"]

    async def generate(self, request):
        raise WorkerError(kinds.pop(0), "sk-1 is wrong", retry_after=4.0)
        yield

    with structlog.testing.capture_logs() as logs:
        async with calling(of(generate)) as worker:
            first, second, third = [await refused(worker) for _ in range(3)]
    assert (first.kind, first.message, first.retry_after) == (Kind.CONTEXT_TOO_LONG, "sk-1 is wrong", 4.0)
    assert (second.kind, "sk-1" in second.message) == (Kind.AUTH, False)
    assert third.kind is Kind.PROTOCOL
    assert "sk-1 is wrong" in logs[0]["error"]


async def test_a_call_that_cancels_itself():
    async def generate(self, request):
        yield "a"
        raise asyncio.CancelledError

    async with calling(of(generate)) as worker:
        assert (await refused(worker)).kind is Kind.PROTOCOL


# How it is closed.


@pytest.mark.parametrize("plain", [True, False])
async def test_an_answer_that_is_not_wanted_any_more_is_closed(plain):
    closed = threading.Event()

    async def waiting(self, request):
        try:
            while True:
                yield "a"
                await asyncio.sleep(0)
        finally:
            closed.set()

    def blocking(self, request):
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    async with calling(of(blocking if plain else waiting)) as worker:
        async with aclosing(worker.generate(ask())) as batches:
            await anext(batches)
        assert await asyncio.to_thread(closed.wait, 2)


async def test_a_thread_is_a_few_items_ahead_and_no_more():
    made: list[int] = []

    def generate(self, request):
        for at in range(1000):
            made.append(at)
            yield f"{at} "

    async with calling(of(generate)) as worker, aclosing(worker.generate(ask())) as batches:
        await anext(batches)
        before = -1
        while before != len(made):
            before = len(made)
            await asyncio.sleep(0.02)
        assert before <= 40


async def test_a_thread_that_blocks_is_not_waited_for():
    go_on, blocked = threading.Event(), threading.Event()

    def generate(self, request):
        yield "a"
        blocked.set()
        go_on.wait(20)
        yield "b"

    async with calling(of(generate)) as worker:
        async with aclosing(worker.generate(ask())) as batches:
            await anext(batches)
            await until(blocked.is_set)
            began = time.monotonic()
        call = asyncio.create_task(told(worker, ask()))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await worker.aclose()
        assert time.monotonic() - began < 1.0
        go_on.set()


async def test_threads_that_go_on_for_nobody_are_bounded():
    go_on = threading.Event()
    blocked: list[int] = []

    def generate(self, request):
        yield "a"
        blocked.append(1)
        go_on.wait(20)

    async with calling(of(generate)) as worker:
        for number in range(1, 65):
            async with aclosing(worker.generate(ask())) as batches:
                await anext(batches)
                await until(lambda count=number: len(blocked) == count)
        error = await refused(worker)
        assert (error.kind, error.retryable) == (Kind.OVERLOADED, True)
        go_on.set()
        await until(lambda: not worker._left)
        assert (await told(worker, ask())).text == "a"


async def test_a_generator_that_will_not_end_is_left():
    async def stubborn(self, request):
        try:
            yield "a"
        finally:
            await asyncio.sleep(60)

    async def deaf(self, request):
        with suppress(GeneratorExit):  # as nobody should
            yield "a"
        yield "b"

    with structlog.testing.capture_logs() as logs:
        for function in (stubborn, deaf):
            async with calling(of(function)) as worker:
                async with aclosing(worker.generate(ask())) as batches:
                    await anext(batches)
                    began = time.monotonic()
                assert time.monotonic() - began < 0.9
    assert [line["event"] for line in logs] == ["worker_raised", "worker_raised"]


async def test_closing_the_worker_ends_its_calls():
    waiting = asyncio.Event()

    async def generate(self, request):
        yield "a"
        waiting.set()
        await asyncio.Event().wait()

    async with calling(of(generate)) as worker:
        call = asyncio.create_task(refused(worker))
        await waiting.wait()
        await worker.aclose()
        assert (await call).kind is Kind.RESET
        assert (await refused(worker)).kind is Kind.UNREACHABLE


# The other methods.


async def text(self, request):
    yield "a"


async def test_a_class_without_more_is_well_and_nothing_else():
    async with calling(of(text)) as worker:
        assert await worker.health() == Health(ok=True)
        assert not isinstance(worker, EmbeddingWorker)
        assert not isinstance(worker, CountingWorker)


@pytest.mark.parametrize(
    ("result", "ok"),
    [
        (True, True),
        (False, False),
        (None, True),
        (Health(ok=True, slots=2), True),
        (5, False),
        (ValueError("x"), False),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
async def test_health(result, ok, plain):
    def given() -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    async def waiting(self):
        return given()

    async with calling(of(text, health=(lambda _: given()) if plain else waiting)) as worker:
        seen = await worker.health()
        assert seen.ok is ok
        assert seen.ok or seen.detail


@pytest.mark.slow
async def test_a_health_that_hangs():
    go_on = threading.Event()
    async with calling(of(text, health=lambda _: go_on.wait(20))) as worker:
        assert not (await worker.health()).ok
        go_on.set()


@pytest.mark.parametrize("plain", [True, False])
async def test_embeddings_and_counts(plain):
    async def embed(self, request):
        return [[1, 2.5] for _ in request.inputs]

    async def count(self, request):
        return 7

    methods = {
        "embed": (lambda _, request: [[1, 2.5] for _ in request.inputs]) if plain else embed,
        "count_tokens": (lambda _, request: 7) if plain else count,
    }
    async with calling(of(text, **methods)) as worker:
        assert isinstance(worker, EmbeddingWorker)
        assert isinstance(worker, CountingWorker)
        got = await worker.embed(EmbeddingRequest("r", "m", ("a", "b")))
        assert got.vectors == ((1.0, 2.5), (1.0, 2.5))
        assert await worker.count_tokens(ask()) == 7


@pytest.mark.parametrize(
    "vectors",
    [[[1.0]], [[1.0], [1.0, 2.0]], [[float("nan")], [1.0]], 5, [["a"], ["b"]], Embeddings(((1.0,),)), None],
)
async def test_embeddings_that_are_none(vectors):
    async with calling(of(text, embed=lambda _, request: vectors)) as worker:
        with pytest.raises(WorkerError) as raised:
            await worker.embed(EmbeddingRequest("r", "m", ("a", "b")))
        assert raised.value.kind is Kind.PROTOCOL


@pytest.mark.parametrize("count", [-1, 1.5, "7", True])
async def test_counts_that_are_none(count):
    async with calling(of(text, count_tokens=lambda _, request: count)) as worker:
        with pytest.raises(WorkerError):
            await worker.count_tokens(ask())


async def test_its_end_is_called_once():
    ends: list[int] = []
    async with calling(of(text, aclose=lambda _: ends.append(1))) as worker:
        await worker.aclose()
    assert ends == [1]
