"""What the head gate refuses, what it leaves to the parser, and that nobody can tell the difference by the answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import openai
import pytest
from openai import AsyncOpenAI

from config.schema import Config
from pipeline.core.access import ANONYMOUS
from pipeline.core.errors import Overloaded
from pipeline.core.outcomes import Priority
from pipeline.edge import gate, head
from pipeline.policy.access import key_hash
from tests.edge.scripted import ScriptedWorker
from tests.edge.wire import LIMIT, Answer, Wire, chat, connected, get, post
from tests.flows import config
from tests.http import Serving, serving

CHAT = "/v1/chat/completions"
NAMED = "X-Headgate-Route: said"
ASKED = post(chat(model="said"), CHAT, NAMED)
HELD = post(chat(model="said"))


def configured(*, keys: list[dict[str, object]] | None = None, **server: object) -> Config:
    """The route `said` has one place and no time to wait, `echo` has room."""
    return config(
        server=server,
        workers=[{"name": "said", "kind": "echo", "concurrency": 1}, {"name": "echo", "kind": "echo"}],
        routes=[{"name": "said", "worker": "said", "wait_budget_ms": 1}, {"name": "echo", "worker": "echo"}],
        keys=keys or [],
    )


PLAIN = configured()


class Pressed(NamedTuple):
    """`ordinary` is the answer that the ordinary path gave, `gated` the ids of the requests that the gate refused."""

    server: Serving
    port: int
    ordinary: Answer
    gated: list[str]


@asynccontextmanager
async def pressed(conf: Config = PLAIN, held: bytes = HELD) -> AsyncIterator[Pressed]:
    """A server whose route `said` refuses everything, and whose gate is closed. `held` takes the one place."""
    said, gated = ScriptedWorker(), []

    def after_gate(error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        assert arrived <= now
        gated.append(request_id)

    async with serving(conf, workers={"said": said}) as server:
        server.books.after_gate = after_gate
        ingress = server.pipeline.ingress
        async with connected(server.port) as holder:
            await holder.send(held)
            async with asyncio.timeout(LIMIT):
                await said.called.wait()
                while ingress.gate("said", Priority.NORMAL, None, ANONYMOUS) is None:
                    await asyncio.sleep(0.005)
            assert not ingress.gate_closed
            async with connected(server.port) as wire:
                await wire.send(held)
                ordinary = await wire.answer()
            assert ingress.gate_closed
            assert not gated
            yield Pressed(server, server.port, ordinary, gated)
            said.say("that was all", end=True)
            await holder.answer()


@pytest.fixture(autouse=True)
def _closed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, the gate does not open between two steps of a test."""
    monkeypatch.setattr("pipeline.ingress._GATE_SECONDS", 60.0)


def alike(answer: Answer, other: Answer) -> bool:
    """Whether two answers differ in nothing but what differs from one to the next."""
    varying = ("date", "retry-after", "retry-after-ms", "x-request-id")
    fields, others = ({n: "" if n in varying else v for n, v in a.headers.items()} for a in (answer, other))
    return (answer.status, list(fields.items()), answer.body) == (other.status, list(others.items()), other.body)


async def refused(wire: Wire, sent: bytes = ASKED) -> Answer:
    await wire.send(sent)
    answer = await wire.answer()
    assert (answer.status, answer.code) == (503, "overloaded")
    return answer


async def served(wire: Wire) -> None:
    await wire.send(post(chat("still here")))
    assert (await wire.answer()).json["choices"][0]["message"]["content"] == "still here"


@pytest.mark.parametrize(
    "sent",
    [
        ASKED,
        post(chat(model="said"), "/v1/prompts", NAMED),
        post(chat(model="said"), CHAT, "x-headgate-ROUTE:said"),
        post(chat(model="said"), CHAT, "X-Headgate-Route:   said", "Connection: Keep-Alive", "X-Empty:"),
        post(chat(model="said"), CHAT, NAMED, "Expect: 100-continue"),  # the body has come all the same
        post(chat(model="said"), CHAT, NAMED, "Authorization: Bearer none", "X-Headgate-Class: low"),
    ],
)
async def test_a_refusal_is_the_ordinary_one_and_the_connection_lives(sent):
    async with pressed() as now, connected(now.port) as wire:
        opened = len(now.server.books.opened)
        for number in range(3):
            answer = await refused(wire, sent)
            assert alike(answer, now.ordinary)
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert float(answer.headers["retry-after-ms"]) >= 1000
            assert now.gated[number] == answer.headers["x-request-id"]
        assert len(set(now.gated)) == 3
        assert len(now.server.books.opened) == opened  # nothing else was done for them
        await served(wire)
        await refused(wire, sent)
        assert len(now.gated) == 4


async def test_ids_and_traces_come_back():
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with pressed() as now, connected(now.port) as wire:
        answer = await refused(
            wire, post(chat(model="said"), CHAT, NAMED, "X-Request-Id: mine", f"traceparent: {trace}")
        )
        assert (answer.headers["x-request-id"], answer.headers["traceparent"]) == ("mine", trace)
        answer = await refused(wire, post(chat(), CHAT, NAMED, "X-Request-Id: not mine", "traceparent: nonsense"))
        assert answer.headers["x-request-id"] == now.gated[-1] != "not mine"
        assert "traceparent" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(chat(model="said")), 503),  # no route is named, and another has room
        (post(chat(), CHAT, "X-Headgate-Route: echo"), 200),
        (post(chat(), CHAT, "X-Headgate-Route: nobody"), 200),  # the body decides
        (post(chat(model="said"), CHAT + "?x=1", NAMED), 503),
        (post(chat(model="said"), "/v1/nowhere", NAMED), 404),
        (get(CHAT, NAMED), 405),
        (ASKED.replace(b"HTTP/1.1", b"HTTP/1.0"), 503),
        (ASKED.replace(b"HTTP/1.1", b"HTTP/9.9"), 400),
        (ASKED.replace(b"Host: test\r\n", b""), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\nHost: other"), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\n X: folded"), 400),
        (ASKED.replace(b"Host: test", b"Host: te\0st"), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\nno colon"), 400),
        (ASKED.replace(b"Host: test", b"Host : test"), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\nX: \xff"), 503),
        (ASKED.replace(b"Host: test", b"Host: test\r\nX: a\tb"), 503),
        (ASKED.replace(b"Host: test", b"Host: test\r\n: nameless"), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\nContent-Length: 1"), 400),
        (ASKED.replace(b"Content-Length: ", b"Content-Length: +"), 400),
        (ASKED.replace(b"Content-Length: ", b"Content-Length: x"), 400),
        (ASKED.replace(b"Content-Length: ", b"Content-Length: 9" + b"9" * 30), 400),
        (ASKED.replace(b"Host: test", b"Host: test\r\nTransfer-Encoding: chunked"), 400),
        (post(chat(model="said"), CHAT, NAMED, "Content-Encoding: gzip"), 415),
        (post(chat(model="said"), CHAT, NAMED, "Expect: money"), 503),
        (post(chat(model="said"), CHAT, NAMED, "Connection: Upgrade", "Upgrade: websocket"), 503),
        (post(chat(model="said"), CHAT, NAMED, "Connection: TE"), 503),
        (post(chat(model="said"), CHAT, NAMED, "X-Headgate-Class: finest"), 400),
        (post(chat(model="said"), CHAT, NAMED, f"X-Session-Id: {'x' * 300}"), 400),
        (post(chat(model="said"), CHAT, NAMED, "X-Request-Timeout-Ms: -1"), 400),
        (post(chat(model="said"), CHAT, NAMED, *[f"X-{number}: x" for number in range(110)]), 503),
        (post(chat(model="said"), CHAT, NAMED, *[f"X-{number}: x" for number in range(200)]), 431),
        (post(chat(model="said"), CHAT, NAMED, f"X: {'x' * 65_536}"), 431),
        (post(b"{}", CHAT, NAMED, "Expect: money", length=200), 417),
        (post(b"{}", CHAT, NAMED, length=1 << 30), 413),
    ],
)
async def test_what_is_unusual_is_left_to_the_ordinary_path(sent, status):
    """Which sees all that the gate let through, from its first byte on."""
    async with pressed() as now, connected(now.port) as wire:
        await wire.send(sent)
        answer = await wire.answer()
        assert answer.status == status
        assert not now.gated
        if answer.headers.get("connection") != "close":
            await served(wire)


async def test_byte_by_byte_the_answer_is_the_same():
    async with pressed() as now, connected(now.port) as wire:
        for byte in ASKED:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert alike(await wire.answer(), now.ordinary)
        await refused(wire)  # whether the gate saw it depends on how the kernel cut the last one
        await refused(wire)
        assert now.gated


async def test_a_chunked_body_is_read():
    sent = ASKED.partition(b"\r\n\r\n")
    lines = [line for line in sent[0].split(b"\r\n") if not line.startswith(b"Content-Length")]
    top = b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""])
    async with pressed() as now, connected(now.port) as wire:
        answer = await refused(wire, top + b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent[2]), sent[2]))
        assert alike(answer, now.ordinary)
        assert not now.gated
        await served(wire)


async def test_pipelined_requests_are_answered_in_order():
    async with pressed() as now, connected(now.port) as wire:
        await wire.send(ASKED + post(chat("second")) + ASKED)
        assert (await wire.answer()).status == 503
        assert (await wire.answer()).json["choices"][0]["message"]["content"] == "second"
        assert (await wire.answer()).status == 503
        assert not now.gated
        await served(wire)
        await asyncio.sleep(0.01)
        await refused(wire)
        assert now.gated


async def test_the_rest_of_another_head_is_no_request():
    """The parser holds the beginning of a head; what looks like a prompt belongs to a field of it."""
    async with pressed() as now, connected(now.port) as wire:
        await wire.send(post(chat("first")) + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nX-Odd: ")
        assert (await wire.answer()).status == 200
        await asyncio.sleep(0.01)
        await wire.send(ASKED.partition(b"\r\n\r\n")[0].replace(b"Host: test\r\n", b"") + b"\r\n\r\n")
        assert (await wire.answer()).status == 404
        assert not now.gated


async def test_a_body_that_comes_later_is_forgotten():
    top, end, body = ASKED.partition(b"\r\n\r\n")
    async with pressed() as now, connected(now.port) as wire:
        for _ in range(3):
            answer = await refused(wire, top + end)  # before the body
            assert alike(answer, now.ordinary)
            await wire.send(body[:10])
            await asyncio.sleep(0.005)
            await wire.send(body[10:] + post(chat("behind it")))
            assert (await wire.answer()).json["choices"][0]["message"]["content"] == "behind it"
            await asyncio.sleep(0.005)
        assert len(now.gated) == 3


async def test_a_body_that_does_not_come_is_not_waited_for_without_end():
    async with pressed(configured(body_timeout_ms=100)) as now, connected(now.port) as wire:
        await refused(wire, ASKED[:-10])
        assert await wire.closed(2.0) == b""


async def test_a_large_body_that_still_arrives_ends_the_connection():
    sent = post(chat("x" * (gate.BODY_MAX + 5000), model="said"), CHAT, NAMED)
    async with pressed() as now, connected(now.port) as wire:
        answer = await refused(wire, sent[:1000])
        assert answer.headers["connection"] == "close"
        assert len(now.gated) == 1
        await wire.closed()


async def test_a_large_body_that_is_here_is_thrown_away():
    sent = post(chat("x" * 40_000, model="said"), CHAT, NAMED)
    async with pressed() as now, connected(now.port) as wire:
        assert alike(await refused(wire, sent), now.ordinary)
        await served(wire)
        assert len(now.gated) == 1


async def test_nobody_is_told_to_go_on_to_a_refusal():
    top, end, _ = post(chat(model="said"), CHAT, NAMED, "Expect: 100-continue").partition(b"\r\n\r\n")
    async with pressed() as now, connected(now.port) as wire:
        answer = await refused(wire, top + end)  # the first answer: no 100 before it
        assert answer.headers["connection"] == "close"
        assert len(now.gated) == 1
        await wire.closed()


async def test_a_client_that_asks_to_close_is_closed():
    async with pressed() as now, connected(now.port) as wire:
        answer = await refused(wire, post(chat(model="said"), CHAT, NAMED, "Connection: close"))
        assert answer.headers["connection"] == "close"
        assert await wire.closed() == b""
        assert len(now.gated) == 1


async def test_the_limit_of_heads_holds():
    async with pressed(configured(max_head_bytes=2048)) as now, connected(now.port) as wire:
        await wire.send(post(chat(model="said"), CHAT, NAMED, *[f"X-{number}: {'x' * 100}" for number in range(30)]))
        assert (await wire.answer()).status == 431
        assert not now.gated


async def test_a_gate_that_is_open_looks_at_nothing():
    async with pressed() as now, connected(now.port) as wire:
        now.server.pipeline.ingress.gate_closed = False
        assert alike(await refused(wire), now.ordinary)
        assert not now.gated
        assert now.server.pipeline.ingress.gate_closed  # by that refusal


async def test_an_idle_connection_is_closed_and_one_that_asks_is_not():
    async with pressed(configured(idle_timeout_ms=400)) as now, connected(now.port) as wire:
        for _ in range(6):
            await refused(wire)
            await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
        assert await wire.closed() == b""
        assert asyncio.get_running_loop().time() - began < 0.8
        assert len(now.gated) == 6


async def test_a_connection_that_was_only_refused_is_not_fresh():
    """At drain it is closed at once: its client knows where it is."""
    async with pressed() as now, connected(now.port) as wire, connected(now.port) as silent:
        await refused(wire)
        await now.server.edge.drain()
        assert await wire.closed() == b""
        assert await silent.closed() == b""


async def test_while_it_drains_the_ordinary_path_says_so():
    async with pressed() as now, connected(now.port) as wire:
        now.server.pipeline.ingress.draining = True
        answer = await refused(wire)
        assert answer.headers["x-headgate-shed-reason"] == "draining"
        assert not now.gated


async def test_a_body_that_ends_while_the_server_drains_ends_its_connection():
    async with pressed() as now, connected(now.port) as wire:
        await refused(wire, ASKED[:-10])
        now.server.pipeline.ingress.draining = True
        await now.server.edge.drain()
        await wire.send(ASKED[-10:])
        assert await wire.closed() == b""


async def test_answers_that_nobody_reads_do_not_pile_up():
    async with pressed() as now, connected(now.port, receive_buffer=4096) as wire:
        for _ in range(3000):
            wire.writer.write(ASKED)
            if not wire.writer.transport.get_write_buffer_size():
                await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        waiting = [connection.transport.get_write_buffer_size() for connection in now.server.edge._http.connections]
        assert max(waiting) < 300_000
        wire.reset()


async def test_a_thousand_on_one_connection_are_all_counted():
    async with pressed() as now, connected(now.port) as wire:
        for _ in range(1000):
            await wire.send(ASKED)
            assert (await wire.head()).status == 503
            await wire.reader.readexactly(len(now.ordinary.body))
        assert len(set(now.gated)) == 1000


async def test_a_key_counts_as_it_does_on_the_ordinary_path():
    keys = [
        {"name": "one", "hash": key_hash("hg_one"), "requests_per_minute": 60},
        {"name": "two", "hash": key_hash("hg_two"), "routes": ["echo"]},
    ]
    mine, theirs = "Authorization: Bearer hg_one", "x-api-key: hg_two"
    held = post(chat(model="said"), CHAT, mine)
    async with pressed(configured(keys=keys), held) as now, connected(now.port) as wire:
        answer = await refused(wire, post(chat(model="said"), CHAT, NAMED, mine))
        assert answer.headers["x-ratelimit-limit-requests"] == "60"
        assert list(answer.headers) == list(now.ordinary.headers)
        assert len(now.gated) == 1
        for field, status in ((theirs, 403), ("Authorization: Bearer hg_three", 401), ("Authorization: Basic x", 401)):
            await wire.send(post(chat(model="said"), CHAT, NAMED, field))
            assert (await wire.answer()).status == status
            await asyncio.sleep(0.005)
        assert len(now.gated) == 1


async def test_the_official_client_gets_its_error_and_keeps_its_connection():
    hello = [{"role": "user", "content": "hello there"}]
    async with pressed() as now:
        async with asyncio.timeout(LIMIT):
            while now.server.edge.connections > 1:  # the holder's
                await asyncio.sleep(0.005)
        async with AsyncOpenAI(base_url=now.server.base_url, api_key="none", max_retries=0, timeout=5.0) as api:
            named = {"X-Headgate-Route": "said"}
            for number in range(1, 4):
                with pytest.raises(openai.InternalServerError) as raised:
                    await api.chat.completions.create(model="said", messages=hello, extra_headers=named)
                assert raised.value.status_code == 503
                assert raised.value.code == "overloaded"
                assert raised.value.response.headers["x-headgate-shed-reason"] == "wait_budget"
                assert raised.value.response.headers["retry-after"]
                assert len(now.gated) == number
            connections = now.server.edge._http.connections
            assert len(connections) == 2
            completion = await api.chat.completions.create(model="echo", messages=hello)
            assert completion.choices[0].message.content == "hello there"
            assert now.server.edge._http.connections == connections


async def test_a_head_after_a_body_in_parts_is_not_too_large():
    """A body's bytes are none of the next head's."""
    async with serving(configured(max_head_bytes=2048)) as server, connected(server.port) as wire:
        sent = post(chat("x" * 20_000))
        for start in range(0, len(sent), 5000):
            await wire.send(sent[start : start + 5000])
            await asyncio.sleep(0.005)
        assert (await wire.answer()).status == 200
        await asyncio.sleep(0.005)
        await wire.send(get("/healthz")[:20])
        await asyncio.sleep(0.005)
        await wire.send(get("/healthz")[20:])
        assert (await wire.answer()).status == 200


def test_all_fields_that_the_gate_reads_are_found():
    names = (head.REQUEST_ID, head.SESSION_ID, head.TIMEOUT, head.TRACEPARENT, head.AUTHORIZATION, head.API_KEY)
    for name in (*names, head.CLASS, gate.ROUTE, *gate._UNUSUAL, "Host", "Connection", "Content-Length", "Expect"):
        for spelled in (name, name.lower(), name.upper()):
            assert gate._fields(f"POST\r\nX-Other: 1\r\n{spelled}: value\r\n\r\n") == [(spelled, "value")]
