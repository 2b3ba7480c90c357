"""Bodies that are too large, too slow, broken off, compressed, or announced and not sent."""

import asyncio
import gzip

import pytest

from pipeline.core.outcomes import Outcome, Reason
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import Wire, ask, chat, connected, get, post
from tests.flows import config
from tests.http import Serving, serving

SMALL = config(server={"max_body_bytes": 4096})
QUICK = config(server={"body_timeout_ms": 150})


def head(*lines: str, path: str = "/v1/chat/completions") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


def chunked(*blocks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks)


def endings(server: Serving) -> list[Reason]:
    return [ticket.ending.reason for ticket in server.books.ended if ticket.ending is not None]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/prompts"])
async def test_an_announced_body_that_is_too_large_is_refused_unread(path):
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Content-Length: 4097", path=path))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert answer.headers["connection"] == "close"
        assert endings(server) == [Reason.TOO_LARGE]
        await wire.closed()


async def test_a_body_that_came_with_its_head_may_not_be_too_large_either():
    async with serving(SMALL) as server:
        answer = await ask(server.port, post(chat("x" * 5000)))
        assert (answer.status, answer.code) == (413, "request_too_large")


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large():
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Transfer-Encoding: chunked"))
        for _ in range(5):
            await wire.send(chunked(b" " * 1000))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert endings(server) == [Reason.TOO_LARGE]


async def test_a_chunked_body_that_never_ends_is_cut_off():
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Transfer-Encoding: chunked"))
        sending = asyncio.create_task(endless(wire))
        answer = await wire.answer()
        assert answer.status == 413
        await wire.closed()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def endless(wire: Wire) -> None:
    while True:
        await wire.send(chunked(b" " * 10_000))
        await asyncio.sleep(0.001)


async def test_a_chunked_body_is_as_good_as_any():
    body = post(chat("hello there")).partition(b"\r\n\r\n")[2]
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Transfer-Encoding: chunked") + chunked(body[:10]))
        await asyncio.sleep(0.01)
        await wire.send(chunked(body[10:]) + b"0\r\n\r\n")
        assert (await wire.answer()).json["choices"][0]["message"]["content"] == "hello there"


async def test_a_body_in_many_segments_is_as_good_as_any():
    request = post(chat("hello there"))
    async with serving(SMALL) as server, connected(server.port) as wire:
        for at in range(0, len(request), 7):
            await wire.send(request[at : at + 7])
            await asyncio.sleep(0)
        assert (await wire.answer()).status == 200


async def test_a_body_that_never_comes_is_waited_for_so_long():
    async with serving(QUICK) as server, connected(server.port) as wire:
        await wire.send(head("Content-Length: 100"))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["connection"] == "close"
        assert endings(server) == [Reason.SLOW_CLIENT]


async def test_a_body_byte_by_byte_has_the_same_time():
    async with serving(QUICK) as server, connected(server.port) as wire:
        await wire.send(head("Content-Length: 1000"))
        dribbling = asyncio.create_task(dribble(wire))
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        await wire.closed()
        dribbling.cancel()
        await asyncio.gather(dribbling, return_exceptions=True)


async def dribble(wire: Wire) -> None:
    while True:
        await wire.send(b" ")
        await asyncio.sleep(0.01)


async def test_a_body_shorter_than_announced_means_that_the_client_has_gone():
    async with serving(SMALL) as server:
        async with connected(server.port) as wire:
            await wire.send(head("Content-Length: 100") + b"{")
            wire.half_close()
            await wire.closed()
        assert endings(server) == [Reason.CLIENT_GONE]


@pytest.mark.parametrize("tail", [b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"3\r\n{}\r\n"])
async def test_a_chunked_body_that_is_malformed_is_refused_at_once(tail):
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Transfer-Encoding: chunked"))
        await asyncio.sleep(0.01)
        await wire.send(tail)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (400, "malformed_http")
        assert endings(server) == [Reason.INVALID]


async def test_a_compressed_body_is_refused_not_unpacked():
    bomb = gzip.compress(b" " * 1_000_000)
    async with serving(SMALL) as server:
        answer = await ask(server.port, post(bomb, "/v1/chat/completions", "Content-Encoding: gzip"))
        assert (answer.status, answer.code) == (415, "unsupported_media_type")
        answer = await ask(server.port, post(chat(), "/v1/chat/completions", "Content-Encoding: identity"))
        assert answer.status == 200


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 200),
        ("application/vnd.api+json", 200),
        ("", 200),
    ],
)
async def test_json_is_taken_whatever_it_is_called_but_for_forms(media, status):
    body = post(chat()).partition(b"\r\n\r\n")[2]
    async with serving(SMALL) as server:
        answer = await ask(server.port, head(f"Content-Type: {media}", f"Content-Length: {len(body)}") + body)
        assert answer.status == status


async def test_a_client_that_asks_first_is_told_to_go_on():
    body = post(chat()).partition(b"\r\n\r\n")[2]
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert (await wire.head()).status == 100
        await wire.send(body)
        assert (await wire.answer()).status == 200


async def test_after_having_been_told_to_go_on_an_error_is_still_an_answer():
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head("Content-Length: 1", "Expect: 100-continue"))
        assert (await wire.head()).status == 100
        await wire.send(b"{")
        assert (await wire.answer()).code == "invalid_json"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Content-Length: 4097", "Expect: 100-continue"), 413),
        (("Content-Length: 10", "Expect: 100-continue", "Content-Encoding: br"), 415),
        (("Content-Length: 10", "Expect: a-miracle"), 417),
    ],
)
async def test_what_the_head_rules_out_is_refused_without_the_body(lines, status):
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(head(*lines))
        assert (await wire.answer()).status == status
        assert [ticket.ending.outcome for ticket in server.books.ended] == [Outcome.REJECTED]


async def test_an_empty_body_is_no_json():
    async with serving(SMALL) as server:
        answer = await ask(server.port, head("Content-Length: 0"))
        assert (answer.status, answer.code) == (400, "invalid_json")


async def test_a_body_where_none_is_read_does_no_harm():
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(get("/healthz", "Content-Length: 3") + b"abc")
        assert (await wire.answer()).status == 200
        await wire.send(get("/healthz"))
        assert (await wire.answer()).status == 200


BEYOND = [b"{}", b'{"a": 1}\r\n\r\n', b"\x00" * 100]


@pytest.mark.parametrize("beyond", BEYOND)
async def test_bytes_that_come_with_a_body_and_were_not_announced_make_the_request_a_bad_one(beyond):
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(post(chat()) + beyond)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (400, "malformed_http")
        assert answer.headers["connection"] == "close"
        assert await wire.closed() == b""
        assert server.books.opened == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("beyond", BEYOND)
async def test_bytes_that_come_after_it_do_it_no_harm_and_are_a_bad_request_of_their_own(beyond, stream):
    said = ScriptedWorker()
    conf = scripted_config()
    async with serving(conf, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said", stream=stream)))
        await said.called.wait()
        await wire.send(beyond)
        said.say("all", " of", " it", end=True)
        first = await wire.answer()
        assert first.status == 200
        assert b" it" in first.body
        second = await wire.answer()
        assert (second.status, second.code) == (400, "malformed_http")
        assert second.headers["connection"] == "close"
        assert await wire.closed() == b""
        assert endings(server) == [Reason.DONE]


async def test_a_million_tokens_are_taken_or_refused_but_never_hang():
    async with serving(config()) as server:
        words = "word " * 1_000_000
        answer = await ask(server.port, post(chat(words)))
        assert (answer.status, answer.code) == (400, "context_length_exceeded")
        answer = await ask(server.port, post(chat(words * 2)))
        assert (answer.status, answer.code) == (413, "request_too_large")
