"""The `grpc` worker against our own server; the conformance suite has it against one that is not."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode, aio, method_handlers_generic_handler, unary_stream_rpc_method_handler

from tests.workers.helpers import ask, section, told
from workers.base import Delta, DeltaBatch, EmbeddingRequest, EmbeddingWorker, Health, Usage
from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_backend import Grpc
from workers.grpc_server import WorkerServer, serving

Kind = WorkerErrorKind


class Words:
    """Says the words that it is asked; what some of them do is below."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.yielded = 0
        self.running = 0

    async def generate(self, request):
        self.requests.append(request)
        self.running += 1
        try:
            for word in request.messages[-1].text.split():
                if word == "wait":
                    await asyncio.Event().wait()
                if word == "fail":
                    raise WorkerError(Kind.OVERLOADED, "too many words", retryable=True, retry_after=3.0)
                if word == "endless":
                    while True:
                        self.yielded += 1
                        yield "x" * 4000
                yield word + " "
            yield DeltaBatch((Delta("", 0, "stop"),), Usage(3, 4, b"", 1, 2))
        finally:
            self.running -= 1

    async def health(self) -> Health:
        return Health(ok=True, slots=4, context_tokens=4096)

    async def embed(self, request):
        return [[float(len(one)), 0.5] for one in request.inputs]

    async def count_tokens(self, request):
        return sum(len(message.text.split()) for message in request.messages)


@asynccontextmanager
async def calling(worker: Any = None, **fields: Any) -> AsyncIterator[tuple[Grpc, Any, WorkerServer]]:
    """Fails when a task is left behind, or something went wrong that nobody was told."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    before = asyncio.all_tasks()
    worker = worker or Words()
    async with serving(worker, "127.0.0.1:0") as server:
        backend = Grpc(section("grpc", target=server.address, **fields), server.address, resolve=str)
        async with asyncio.timeout(20):
            yield backend, worker, server
        await backend.aclose()
    await until(lambda: not [task for task in asyncio.all_tasks() - before if not task.done()])
    assert not unheard, unheard


async def until(condition, limit: float = 5.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.002)


async def refused(worker: Any, request: Any) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        await told(worker, request)
    return raised.value


async def test_an_answer_with_its_usage():
    async with calling() as (backend, words, _):
        answer = await told(backend, ask("a b"))
        assert (answer.text, answer.reasons) == ("a b ", {0: ["stop"]})
        assert answer.usages == [Usage(3, 4, b"", 1, 2)]
        (request,) = words.requests
        assert (request.request_id, request.model, request.stream) == ("req-1", "asked-for", True)


async def test_others_have_their_turn_within_one_large_message():
    class Much:
        async def generate(self, request):
            yield DeltaBatch(tuple([Delta("x")] * 20_000))

    async with calling(Much()) as (backend, _, _server), aclosing(backend.generate(ask())) as batches:
        first = await anext(batches)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        rest = [batch async for batch in batches]
        task.cancel()
    assert len(first.deltas) == 256
    assert turns >= 20_000 // 256 - 1
    assert len(first.deltas) + sum(len(batch.deltas) for batch in rest) == 20_000 + 1  # and the one with `stop`


async def test_the_model_s_name_is_the_section_s():
    async with calling(model="real") as (backend, words, _):
        await told(backend, ask(body={"model": "route"}))
        assert words.requests[0].model == "real"
        assert b"real" in words.requests[0].body


async def test_embeddings_and_counts():
    async with calling() as (backend, _, _server):
        assert isinstance(backend, EmbeddingWorker)
        embeddings = await backend.embed(EmbeddingRequest("r", "m", ("a", "bc")))
        assert embeddings.vectors == ((1.0, 0.5), (2.0, 0.5))
        assert await backend.count_tokens(ask("a b c")) == 3


async def test_a_worker_that_cannot_embed_or_count():
    class Only:
        async def generate(self, request):
            yield "a"

    async with calling(Only()) as (backend, _, _server):
        assert await backend.count_tokens(ask()) is None
        with pytest.raises(WorkerError) as raised:
            await backend.embed(EmbeddingRequest("r", "m", ("a",)))
        assert raised.value.kind is Kind.BAD_REQUEST


async def test_health_tells_what_the_worker_tells():
    async with calling() as (backend, words, _):
        assert await backend.health() == Health(ok=True, slots=4, context_tokens=4096)
        words.health = lambda: False
        assert "NOT_SERVING" in (await backend.health()).detail


async def test_a_failure_arrives_with_all_that_it_says():
    async with calling() as (backend, _, _server):
        error = await refused(backend, ask("a fail"))
        assert (error.kind, error.retryable, error.retry_after) == (Kind.OVERLOADED, True, 3.0)
        assert "too many words" in error.message


async def test_an_answer_that_is_not_wanted_any_more_ends_at_the_worker_at_once():
    async with calling() as (backend, words, _):
        for text in ("a wait", "endless"):
            async with aclosing(backend.generate(ask(text))) as batches:
                await anext(batches)
                assert words.running == 1
            await until(lambda: words.running == 0, 1.0)
        call = asyncio.create_task(told(backend, ask("wait")))
        await until(lambda: words.running == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: words.running == 0, 1.0)


async def test_reading_stops_where_nobody_listens():
    async with calling() as (backend, words, _), aclosing(backend.generate(ask("endless"))) as batches:
        await anext(batches)
        before = -1
        while before != words.yielded:
            before = words.yielded
            await asyncio.sleep(0.05)
        assert words.yielded * 4000 < 1 << 20
        for _ in range(before + 10):
            await anext(batches)


async def test_closing_ends_calls_by_an_error_and_not_by_a_cancellation():
    async with calling() as (backend, words, _):
        call = asyncio.create_task(refused(backend, ask("a wait")))
        await until(lambda: words.running == 1)
        await backend.aclose()
        assert (await call).kind is Kind.RESET
        assert (await refused(backend, ask())).kind is Kind.UNREACHABLE
        assert not (await backend.health()).ok


async def test_a_server_that_comes_back_is_called_at_once():
    """Also after calls that found nobody, which make gRPC wait longer and longer by itself."""
    async with calling() as (backend, _, server):
        await told(backend, ask())
        await server.stop(0.0)
        for _ in range(5):
            error = await refused(backend, ask())
            assert (error.kind, error.retryable) == (Kind.UNREACHABLE, True)
        async with serving(Words(), server.address):
            assert (await told(backend, ask("a"))).text == "a "


async def test_a_server_that_is_stopped_during_a_call():
    async with calling() as (backend, words, server):
        call = asyncio.create_task(refused(backend, ask("a wait")))
        await until(lambda: words.running == 1)
        await server.stop(0.0)
        error = await call
        assert error.kind in (Kind.RESET, Kind.UNAVAILABLE)
        assert error.retryable


async def test_something_else_than_grpc_at_the_address():
    async def http(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(http, "127.0.0.1", 0) as server:
        target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        backend = Grpc(section("grpc", target=target), target, resolve=str)
        error = await refused(backend, ask())
        assert (error.kind, error.retryable) == (Kind.UNREACHABLE, True)
        assert "127.0.0.1" not in error.message
        await backend.aclose()


async def test_a_server_that_never_says_a_word_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts for it
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        backend = Grpc(section("grpc", target=target, connect_timeout_ms=200), target, resolve=str)
        async with asyncio.timeout(5):
            error = await refused(backend, ask())
        assert error.kind is Kind.UNREACHABLE
        await backend.aclose()


async def test_a_message_beyond_the_bound():
    async def much(_request, context):
        await context.write(b"x" * ((64 << 20) + 1))

    handler = unary_stream_rpc_method_handler(much)
    server = aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers(
        (method_handlers_generic_handler("headgate.worker.v1.Worker", {"Generate": handler}),)
    )
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    backend = Grpc(section("grpc", target=target), target, resolve=str)
    error = await refused(backend, ask())
    assert error.kind is Kind.PROTOCOL
    assert "larger" in error.message
    await backend.aclose()
    await server.stop(0)


@pytest.mark.parametrize("code", [StatusCode.DEADLINE_EXCEEDED, StatusCode.PERMISSION_DENIED])
async def test_a_status_without_a_failure(code):
    async def fails(_request, context):
        await context.abort(code, "sk-secret-1 is not enough")

    server = aio.server()
    handlers = {"Generate": unary_stream_rpc_method_handler(fails)}
    server.add_generic_rpc_handlers((method_handlers_generic_handler("headgate.worker.v1.Worker", handlers),))
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    given = section("grpc", target=target, api_key="env:KEY")
    backend = Grpc(given, target, resolve=lambda _: "sk-secret-1")
    error = await refused(backend, ask())
    assert error.kind is (Kind.TIMEOUT if code is StatusCode.DEADLINE_EXCEEDED else Kind.AUTH)
    assert "sk-secret-1" not in error.message
    assert (await backend.health()).ok, "it answers, though it has no health service"
    await backend.aclose()
    await server.stop(0)


@pytest.mark.parametrize("secret", ["line\nbreak", "ümlaut"])
async def test_a_key_that_cannot_be_sent(secret):
    async with serving(Words(), "127.0.0.1:0") as server:
        given = section("grpc", target=server.address, api_key="env:KEY")
        backend = Grpc(given, server.address, resolve=lambda _: secret)
        error = await refused(backend, ask())
        assert error.kind is Kind.UNREACHABLE
        assert secret not in error.message
        await backend.aclose()


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used(content, tmp_path):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    given = section("grpc", target="localhost:1", tls=True, ca_file=str(file))
    backend = Grpc(given, "localhost:1", resolve=str)
    error = await refused(backend, ask())
    assert (error.kind, "ca_file" in error.message) == (Kind.UNREACHABLE, True)
    assert str(tmp_path) not in error.message
    await backend.aclose()


async def test_over_a_unix_socket(tmp_path):
    address = f"unix:{tmp_path}/worker.sock"
    async with serving(Words(), address) as server:
        assert server.address == address
        backend = Grpc(section("grpc", target=address), address, resolve=str)
        assert (await told(backend, ask("a"))).text == "a "
        await backend.aclose()
