"""Reading a target's metrics: a real Headgate's, and what other servers show in their place."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from benchmarks.load.scrape import MOST_BYTES, Snapshot, difference, look, parse, places, settle, snapshot
from tests.process.daemon import chat, configured, serving

PAGE = """\
# HELP headgate_requests_offered_total Requests.
# TYPE headgate_requests_offered_total counter
headgate_requests_offered_total{route="-"} 2.0
headgate_requests_offered_total{route="a \\"quoted\\" one"} 12.0
# TYPE headgate_requests_total counter
headgate_requests_total{outcome="rejected",reason="invalid",route="-",stage="ingress"} 2.0
headgate_requests_total{outcome="completed",reason="done",route="a \\"quoted\\" one",stage="stream"} 7.0
headgate_requests_total{outcome="shed",reason="queue_full",route="a \\"quoted\\" one",stage="inference"} 3.0
# TYPE headgate_requests_open gauge
headgate_requests_open{route="-"} 0.0
headgate_requests_open{route="a \\"quoted\\" one"} 2.0
# TYPE headgate_requests_unrouted gauge
headgate_requests_unrouted 1.0
# TYPE headgate_build_info gauge
headgate_build_info{version="9.8.7"} 1.0
# TYPE headgate_process_start_time_seconds gauge
headgate_process_start_time_seconds{process="supervisor"} 1.7e+09
headgate_process_start_time_seconds{process="shard 0"} 1.8e+09
"""
ROUTE = 'a "quoted" one'
DONE = ("completed", "stream", "done")
FULL = ("shed", "inference", "queue_full")


@asynccontextmanager
async def served(**pages: str | bytes | int) -> AsyncIterator[str]:
    """A server with these pages (an int: that status); its address. Underscores stand for slashes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        page = pages.get(request.path.strip("/").replace("/", "_"), 404)
        if isinstance(page, int):
            return web.Response(status=page)
        return web.Response(body=page if isinstance(page, bytes) else page.encode())

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def taken(*, done: int = 7, offered: int = 12, still: int = 2, started: float = 1.7e9, unrouted: int = 1) -> Snapshot:
    return Snapshot(
        "9.8.7",
        started,
        {"-": 2, ROUTE: offered},
        {"-": 0, ROUTE: still},
        {"-": Counter({("rejected", "ingress", "invalid"): 2}), ROUTE: Counter({DONE: done, FULL: 3})},
        unrouted,
    )


def test_a_page_is_read():
    assert parse(PAGE) == taken()
    assert parse(PAGE).still_open == 3


@pytest.mark.parametrize(
    "broken",
    [
        PAGE.replace("} 12.0", "} twelve"),
        PAGE.replace("} 12.0", "} NaN"),
        PAGE.replace("} 12.0", "} +Inf"),
        PAGE.replace("} 12.0", "} 1e300"),
        PAGE.replace("} 12.0", "} -1"),
        PAGE + 'headgate_requests_offered_total{route="' + "a" * 3000 + '"} 1.0\n',
        PAGE + "headgate_requests_unrouted 1.0\n" * 60_000,
        PAGE.replace('{route="-"} 2.0', '{road="-"} 2.0'),
        PAGE.replace("headgate_requests_unrouted 1.0", ""),
    ],
)
def test_a_page_that_is_not_as_ours_is_refused(broken: str):
    with pytest.raises(ValueError):
        parse(broken)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://h:1/v1", ["http://h:1/metrics"]),
        ("http://h:1/v1/", ["http://h:1/metrics"]),
        ("http://h:1", ["http://h:1/metrics"]),
        ("https://h/gate/v1?x=1", ["https://h/gate/metrics", "https://h/metrics"]),
        ("http://[::1]:1/a/b", ["http://[::1]:1/a/b/metrics", "http://[::1]:1/metrics"]),
    ],
)
def test_where_the_metrics_may_be(base_url: str, expected: list[str]):
    assert places(base_url) == expected


async def test_a_page_behind_a_prefix_is_found_and_so_is_one_at_the_root():
    async with served(gate_metrics=PAGE) as address:
        assert await snapshot(f"{address}/gate/v1") == taken()
    async with served(metrics=PAGE, gate_metrics="up 1.0\n") as address:
        assert await snapshot(f"{address}/gate/v1") == taken()


@pytest.mark.parametrize(
    ("page", "why", "foreign"),
    [
        (404, "answered 404", True),
        (302, "answered 302", True),
        (503, "answered 503", False),
        ("up 1.0\n", "the page is no Headgate's", True),
        (PAGE.replace("unrouted", "lost"), "no headgate_requests_unrouted", False),
        (PAGE.encode() + b"\xff", "decode", False),
        (b"#" * (MOST_BYTES + 1), f"more than {MOST_BYTES} bytes", False),
    ],
)
async def test_why_there_is_no_snapshot_is_said(page: str | bytes | int, why: str, foreign: bool):
    async with served(metrics=page) as address:
        found = await look(f"{address}/v1")
        assert found.snapshot is None
        assert why in found.why
        assert found.why.startswith(f"{address}/metrics: ")
        assert found.foreign is foreign
        assert await snapshot(f"{address}/v1") is None


@asynccontextmanager
async def answering(data: bytes, *, stays: bool) -> AsyncIterator[str]:
    """A server that sends `data` to its one client, and then closes or waits until the client does; its address."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        if stays:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await over.wait()


async def test_a_target_that_is_not_there_ends_nothing(unused_tcp_port: int):
    found = await look(f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert found.snapshot is None
    assert not found.foreign
    assert str(unused_tcp_port) in found.why


async def test_a_target_that_breaks_off_ends_nothing():
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nheadgate_", stays=False) as address:
        found = await look(f"{address}/v1")
    assert found.snapshot is None
    assert not found.foreign
    assert found.why


async def test_a_target_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.load.scrape.LIMIT", 0.1)
    async with answering(b"", stays=True) as address:
        found = await look(f"{address}/v1")
    assert found.snapshot is None
    assert "imeout" in found.why


def test_the_difference_leaves_out_other_routes_where_the_model_names_one():
    before, after = taken(), taken(done=17, offered=22)
    after.offered["other"], after.open["other"], after.ended["other"] = 5, 0, Counter({DONE: 5})
    mine = difference(before, after, ROUTE)
    assert (mine.offered, mine.ended) == (10, Counter({DONE: 10}))
    assert (mine.open_before, mine.unrouted_before, mine.open_after) == (3, 1, 3)
    assert mine.comparable
    assert not mine.problems
    everything = difference(before, after, "no route's name")
    assert (everything.offered, everything.ended) == (15, Counter({DONE: 15}))


@pytest.mark.parametrize(
    "after", [taken(started=1.9e9, done=70, offered=75), taken(done=6, offered=11), taken(done=6, still=3)]
)
def test_a_target_that_was_started_again_is_noticed(after: Snapshot):
    between = difference(taken(), after, ROUTE)
    assert not between.comparable
    assert "started again" in between.problems[0]


def test_a_target_whose_own_count_is_wrong_is_noticed():
    between = difference(taken(), taken(offered=13), ROUTE)
    assert between.comparable
    assert between.problems == [
        f"The target's own count of route {ROUTE!r} does not add up: 13 offered, but 10 ended and 2 open."
    ]


async def test_settling_tells_what_stays_open_and_waits_for_no_stranger():
    async with served(metrics=PAGE) as address:
        found = await settle(f"{address}/v1", limit=0.35)
        assert found.snapshot is not None
        assert found.snapshot.still_open == 3
    async with served(metrics="up 1.0\n") as address, asyncio.timeout(2):
        assert (await settle(f"{address}/v1", limit=30)).foreign


CONFIG = """
[[workers]]
name = "slow"
kind = "echo"
first_token_ms = 300

[[routes]]
name = "slow"
worker = "slow"
"""


@pytest.mark.slow
async def test_a_real_headgate_settles_when_its_last_request_has_ended(tmp_path: Path):
    async with serving(configured(tmp_path, CONFIG)) as daemon, aiohttp.ClientSession() as session:
        url = f"{daemon.address}/v1"
        before = await snapshot(url)
        assert before is not None
        assert before.version
        assert before.started > 1.7e9

        async def ask() -> int:
            async with session.post(f"{url}/chat/completions", json=chat(model="slow")) as response:
                return response.status

        asking = asyncio.create_task(ask())
        while (now := await snapshot(url)) is None or not now.still_open:
            await asyncio.sleep(0.01)
        assert difference(before, now, "slow").open_after == 1
        after = (await settle(url)).snapshot
        assert after is not None
        assert after.still_open == 0
        assert await asking == 200
        between = difference(before, after, "slow")
        assert between.offered == 1
        assert between.ended == Counter({DONE: 1})
        assert not between.problems
