"""How calls break, are aborted and share connections: the `openai` worker against a backend that misbehaves."""

import asyncio
import socket
from contextlib import aclosing

import psutil
import pytest

from tests.servers import (
    LAST_CHUNK,
    ScriptedBackend,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    says_and_resets,
    says_and_waits,
    streamed,
    whole,
)
from tests.workers.helpers import acquired, ask, calling, openai_section, openai_worker, told
from workers.base import GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai import OpenAICompatible

STREAMED = streamed(chunk("he"), chunk("llo", finish="stop"))
WHOLE = whole(completion("hello"))
BEGUN = head(Transfer_Encoding="chunked") + http_chunk(events(chunk("he"), done=False))
BROKEN = {WorkerErrorKind.RESET, WorkerErrorKind.CUT, WorkerErrorKind.PROTOCOL}


async def outcome(worker: OpenAICompatible, request: GenerationRequest) -> str | WorkerErrorKind:
    """The text of a complete answer, or the kind of the one error."""
    try:
        return (await told(worker, request)).text
    except WorkerError as error:
        return error.kind


@pytest.mark.slow
@pytest.mark.parametrize("ending", [says_and_closes, says_and_resets])
@pytest.mark.parametrize(("answer", "stream"), [(STREAMED, True), (WHOLE, False)], ids=["streamed", "whole"])
async def test_an_end_at_any_byte_is_an_answer_or_one_error(answer, stream, ending):
    complete = answer.index(b"[DONE]") + len(b"[DONE]\n\n") if stream else len(answer)
    async with calling() as (worker, backend):
        for offset in range(len(answer) + 1):
            backend.script = ending(answer[:offset])
            found = await outcome(worker, ask(stream=stream))
            if offset < complete:
                assert found in BROKEN, offset
            elif ending is says_and_closes and offset == len(answer):
                assert found == "hello"
            else:  # an end beside the last bytes: they may be lost with it
                assert found == "hello" or found in BROKEN, offset
            assert acquired(worker) == 0, offset


@pytest.mark.parametrize(("answer", "stream"), [(STREAMED, True), (WHOLE, False)], ids=["streamed", "whole"])
async def test_an_answer_may_come_byte_by_byte(answer, stream):
    async def script(exchange):
        for at in range(len(answer)):
            await exchange.send(answer[at : at + 1])

    async with calling(script) as (worker, backend):
        for _ in range(2):
            assert await outcome(worker, ask(stream=stream)) == "hello"
        assert backend.connections == 1


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 2", head(), BEGUN, head(400, "application/json", Content_Length="9")]
)
@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_an_aborted_call_closes_its_connection_at_once(begun, way):
    async with calling(says_and_waits(begun)) as (worker, backend):
        generation = worker.generate(ask())
        if begun is BEGUN:
            await anext(generation)
        if way == "close" and begun is BEGUN:
            await generation.aclose()
        else:
            waiting = asyncio.create_task(anext(generation))
            await backend.until(lambda backend: backend.exchanges)
            await asyncio.sleep(0.02)  # so that the call waits for what will not come
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await generation.aclose()
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
        assert acquired(worker) == 0
        backend.script = says(STREAMED)
        assert await outcome(worker, ask()) == "hello"
        assert backend.connections == 2


async def test_a_generation_that_was_never_started_calls_nobody():
    async with calling() as (worker, backend):
        await worker.generate(ask()).aclose()
        assert backend.connections == 0


async def test_an_aborted_call_stops_sending():
    async with calling(says_and_waits(b""), reads=False) as (worker, backend):
        before = psutil.Process().num_fds()
        waiting = asyncio.create_task(told(worker, ask("x" * 20_000_000)))
        await backend.until(lambda backend: backend.exchanges)
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.02)
        assert psutil.Process().num_fds() == before + 1  # the backend's end, which has not noticed yet
        backend.exchanges[0].listen()
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
        assert backend.received < 20_000_000


async def test_an_answer_that_comes_before_the_request_was_read():
    async with calling(says(whole({"error": "too large"}, 413)), reads=False) as (worker, backend):
        with pytest.raises(WorkerError, match="413: too large") as raised:
            await told(worker, ask("x" * 20_000_000))
        assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
        assert acquired(worker) == 0
        backend.exchanges[0].listen()
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
        assert backend.received < 20_000_000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_chunk_size_does_not_leave_the_reader_waiting(stream):
    async def script(exchange):
        await exchange.send(head(content_type="", Transfer_Encoding="chunked") + http_chunk(b"data: {"))
        await asyncio.sleep(0.02)
        await exchange.send(b"ZZ\r\n")
        await exchange.gone.wait()

    async with calling(script) as (worker, _):
        assert await outcome(worker, ask(stream=stream)) is WorkerErrorKind.PROTOCOL


@pytest.mark.parametrize(
    "reply",
    [
        b"no HTTP\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        head(Content_Length="x"),
        head(x="y" * 100_000),
        b"\x16\x03\x01\x00",
    ],
)
async def test_an_answer_that_is_not_http(reply):
    async with calling(says_and_waits(reply + b"\r\n\r\n")) as (worker, _):
        assert await outcome(worker, ask()) is WorkerErrorKind.PROTOCOL


async def test_a_body_shorter_than_it_says():
    body = WHOLE.partition(b"\r\n\r\n")[2]
    reply = head(200, "application/json", Content_Length=str(len(body) + 1)) + body
    async with calling(says_and_closes(reply)) as (worker, _):
        assert await outcome(worker, ask(stream=False)) is WorkerErrorKind.RESET


@pytest.mark.parametrize("garbage", [b"garbage\r\n", WHOLE, b"\r\n", b'{"choices":[]}'])
@pytest.mark.parametrize(("answer", "stream"), [(STREAMED, True), (WHOLE, False)], ids=["streamed", "whole"])
async def test_garbage_after_an_answer_reaches_no_other(answer, stream, garbage):
    """Whether the answer itself is good depends on how much of it was read together with the garbage."""
    async with calling(says(answer + garbage)) as (worker, backend):
        assert await outcome(worker, ask(stream=stream)) in {"hello", WorkerErrorKind.PROTOCOL}
        backend.script = says(streamed(chunk("mine", finish="stop")))
        assert await outcome(worker, ask()) == "mine"


async def test_an_answer_nobody_asked_for_reaches_no_one():
    async with calling(says(STREAMED)) as (worker, backend):
        assert await outcome(worker, ask()) == "hello"
        await backend.exchanges[0].send(streamed(chunk("another's", finish="stop")))
        await asyncio.sleep(0.02)
        backend.script = says(streamed(chunk("mine", finish="stop")))
        assert await outcome(worker, ask()) == "mine"
        assert backend.connections == 2


async def test_a_connection_closed_while_idle_is_replaced():
    """The server's end of a kept connection is closed at the moment when the next request comes."""
    for ending in (says_and_closes(b""), says_and_resets(b"")):
        async with calling(says(STREAMED)) as (worker, backend):
            assert await outcome(worker, ask()) == "hello"
            backend.queued.append(ending)
            assert await outcome(worker, ask()) == "hello"
            assert backend.connections == 2
            assert len(backend.exchanges) == 3


async def test_one_connection_closed_while_idle_speaks_for_all():
    for ending in (says_and_closes(b""), says_and_resets(b"")):
        async with calling(says(STREAMED)) as (worker, backend):
            assert await asyncio.gather(*(outcome(worker, ask()) for _ in range(5))) == ["hello"] * 5
            assert backend.connections == 5
            backend.queued.append(ending)
            assert await outcome(worker, ask()) == "hello"
            assert backend.exchanges[-1].connection == 6  # none of the four others, which may be closed as well
            assert await outcome(worker, ask()) == "hello"
            assert backend.connections == 6


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\n", BEGUN])
@pytest.mark.parametrize("ending", [says_and_closes, says_and_resets])
async def test_a_call_is_not_repeated_once_a_byte_was_heard(said, ending):
    async with calling(says(STREAMED)) as (worker, backend):
        assert await outcome(worker, ask()) == "hello"

        async def script(exchange):
            await exchange.send(said)
            await asyncio.sleep(0.02)  # so that it is heard before the end
            await ending(b"")(exchange)

        backend.queued.append(script)
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask())
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.RESET, True)
        assert len(backend.exchanges) == 2


@pytest.mark.parametrize("ending", [says_and_closes(b""), says_and_resets(b"")])
async def test_a_call_on_a_fresh_connection_is_not_repeated(ending):
    async with calling(ending) as (worker, backend):
        assert await outcome(worker, ask()) is WorkerErrorKind.RESET
        assert len(backend.exchanges) == 1


async def test_a_call_is_repeated_only_once():
    async with calling(says(STREAMED)) as (worker, backend):
        assert await asyncio.gather(*[outcome(worker, ask()) for _ in range(3)]) == ["hello"] * 3
        backend.script = says_and_closes(b"")
        assert await outcome(worker, ask()) is WorkerErrorKind.RESET
        assert len(backend.exchanges) == 5


@pytest.mark.parametrize("stream", [True, False])
async def test_nobody_listens(stream):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    worker = openai_worker(openai_section(f"http://127.0.0.1:{port}/v1"))
    with pytest.raises(WorkerError, match="cannot connect to the backend: Connection refused") as raised:
        await told(worker, ask(stream=stream))
    assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.UNREACHABLE, True)
    health = await worker.health()
    assert not health.ok
    assert "cannot connect" in health.detail
    await worker.aclose()


async def test_a_name_that_does_not_resolve():
    worker = openai_worker(openai_section("http://no-such-host.invalid/v1"))
    with pytest.raises(WorkerError, match="its name does not resolve") as raised:
        await told(worker, ask())
    assert raised.value.kind is WorkerErrorKind.UNREACHABLE
    await worker.aclose()


@pytest.mark.parametrize("user", ["", "u:p@"])
async def test_what_http_has_no_form_for(user):
    """A header of two lines, and a key beside credentials in the address."""
    async with ScriptedBackend(says(STREAMED)) as backend:
        headers = {} if user else {"X-Team": "a\nb"}
        given = openai_section(backend.base_url.replace("//", f"//{user}"), headers=headers)
        worker = openai_worker(given, api_key="sk-secret-1")
        with pytest.raises(WorkerError, match="address or a header is invalid") as raised:
            await told(worker, ask())
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.UNREACHABLE, False)
        assert acquired(worker) == 0
        await worker.aclose()


async def test_a_backend_without_tls():
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        worker = openai_worker(openai_section(f"https://127.0.0.1:{port}/v1"))
        with pytest.raises(WorkerError, match="no valid TLS") as raised:
            await told(worker, ask())
        assert raised.value.kind is WorkerErrorKind.UNREACHABLE
        await worker.aclose()


async def test_a_connection_that_is_not_accepted():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        callers = [socket.socket() for _ in range(3)]  # more than the backlog holds: what comes next gets no answer
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(address)
        worker = openai_worker(openai_section(f"http://127.0.0.1:{address[1]}/v1", connect_timeout_ms=100))
        with pytest.raises(WorkerError, match="timed out") as raised:
            await told(worker, ask())
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.UNREACHABLE, True)
        await worker.aclose()
        for caller in callers:
            caller.close()


async def test_connections_are_bounded():
    async with calling(says_and_waits(BEGUN), max_connections=2) as (worker, backend):
        calls = [asyncio.create_task(told(worker, ask())) for _ in range(5)]
        await backend.until(lambda backend: len(backend.exchanges) == 2)
        await asyncio.sleep(0.05)
        assert backend.connections == 2
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        backend.script = says(STREAMED)
        assert await outcome(worker, ask()) == "hello"


@pytest.mark.parametrize("begun", [b"", BEGUN])
async def test_closing_the_worker_ends_its_calls(begun):
    async with calling(says_and_waits(begun)) as (worker, backend):
        call = asyncio.create_task(told(worker, ask()))
        await backend.until(lambda backend: backend.exchanges)
        await asyncio.sleep(0.02)
        await worker.aclose()
        with pytest.raises(WorkerError):
            await asyncio.wait_for(call, 1)
        with pytest.raises(WorkerError, match="closed") as raised:
            await told(worker, ask())
        assert raised.value.kind is WorkerErrorKind.UNREACHABLE


async def test_many_calls_at_once_leave_nothing_behind():
    async def script(exchange):
        number = len(exchange.body) % 5
        replies = (
            says(STREAMED),
            says_and_closes(BEGUN),
            says_and_resets(BEGUN),
            says(whole(b"", 500)),
            says_and_waits(BEGUN),
        )
        await replies[number](exchange)

    async with calling(script) as (worker, _):

        async def call(number: int) -> str | WorkerErrorKind:
            async with asyncio.timeout(3):
                return await outcome(worker, ask("x" * number))

        results = await asyncio.gather(*[call(number) for number in range(100)], return_exceptions=True)
        found = [str(result) for result in results]
        assert (found.count("hello"), found.count("reset"), found.count("unavailable"), found.count("")) == (
            20,
            40,
            20,
            20,
        )
        assert acquired(worker) == 0


def test_a_worker_is_built_without_a_loop():
    openai_worker(openai_section("http://127.0.0.1:1/v1"))


async def test_a_slow_reader_holds_its_backend_back():
    held = asyncio.Event()
    sent = 0

    async def script(exchange):
        nonlocal sent
        await exchange.send(head())
        block = events(*[chunk("x" * 1000)] * 100, done=False)
        while exchange.unsent() == 0:
            await exchange.send(block)
            sent += len(block)
        held.set()

    async with calling(script) as (worker, _), aclosing(worker.generate(ask())) as batches:
        await anext(batches)
        await held.wait()
        assert sent < 32 << 20


async def test_the_last_http_chunk_is_not_waited_for_long():
    async with calling(says_and_waits(STREAMED.removesuffix(LAST_CHUNK))) as (worker, _):
        async with asyncio.timeout(1):
            assert await outcome(worker, ask()) == "hello"
