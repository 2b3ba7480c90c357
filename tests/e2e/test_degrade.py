"""Under load requests get less before any is refused, and are told so; when the load is gone they get everything."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from pipeline.adapters.retrievers.memory import MemoryRetriever
from tests import http
from tests.flows import config
from tests.knowledge.helpers import SEA
from tests.process.daemon import chat, configured, serving
from tests.servers import Exchange, ScriptedBackend, completion, says, whole
from workers.lexical import Lexical

pytestmark = pytest.mark.slow

HEADER = "X-Headgate-Degraded"
HOLD = 0.1  # seconds that a call takes
# Estimated waits are what these tests are about; how long a queue may stand is not.
CONFIG = """
[admission]
codel = false

[[workers]]
name = "echo"
kind = "echo"
first_token_ms = 100
tokens = 20
concurrency = 2

[[workers]]
name = "scripted"
kind = "openai"
base_url = "{base_url}"
concurrency = 2

[[routes]]
name = "echo"
worker = "echo"
wait_budget_ms = 6000
{steps}

[[routes]]
name = "passed-on"
worker = "scripted"
wait_budget_ms = 6000
{steps}
"""
STEPS = """
[[routes.degrade]]
kind = "shorter_answer"
max_tokens = 10
pressure = 0.1

[[routes.degrade]]
kind = "shorter_answer"
max_tokens = 5
pressure = 0.3
"""


class Told(NamedTuple):
    status: int
    degraded: str | None
    answer: dict[str, Any]

    @property
    def length(self) -> tuple[int, str]:
        return self.answer["usage"]["completion_tokens"], self.answer["choices"][0]["finish_reason"]


async def ask(session: aiohttp.ClientSession, base: str, body: Mapping[str, Any], request_id: str = "r") -> Told:
    url = f"{base}/chat/completions"
    async with session.post(url, json=body, headers={"X-Request-Id": request_id}) as response:
        return Told(response.status, response.headers.get(HEADER), await response.json())


async def warmed(session: aiohttp.ClientSession, base: str, body: Mapping[str, Any]) -> None:
    """One at a time: how long a call takes is known then, and nothing is degraded."""
    for _ in range(4):
        told = await ask(session, base, body)
        assert (told.status, told.degraded) == (200, None)


async def counts_as_told(exchange: Exchange) -> None:
    """An OpenAI-compatible backend that needs its time."""
    if exchange.method == "GET":
        await says(whole({"data": []}))(exchange)
        return
    await asyncio.sleep(HOLD)
    answer = completion("words")
    limit = exchange.json.get("max_completion_tokens", exchange.json.get("max_tokens", 100))
    answer["choices"][0]["finish_reason"] = "length" if limit < 100 else "stop"
    answer["usage"]["completion_tokens"] = min(limit, 100)
    await says(whole(answer))(exchange)


async def test_answers_get_shorter_with_the_load_and_long_again_without(tmp_path: Path):
    async with ScriptedBackend(counts_as_told) as backend:
        path = configured(tmp_path, CONFIG.format(base_url=backend.base_url, steps=STEPS))
        async with serving(path) as daemon, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            base = f"{daemon.address}/v1"
            await warmed(session, base, chat())
            own = {**chat(), "max_tokens": 3}
            bodies = [own if number % 5 == 4 else chat() for number in range(50)]
            answers = await asyncio.gather(*[ask(session, base, body) for body in bodies])
            assert {told.status for told in answers} == {200}
            kinds = {(body is own, told.degraded, told.length) for body, told in zip(bodies, answers, strict=True)}
            assert kinds == {
                (False, None, (20, "stop")),
                (False, "max_tokens=10", (10, "length")),
                (False, "max_tokens=5", (5, "length")),
                (True, None, (3, "length")),  # its own limit is lower than any of ours
            }
            assert (await ask(session, base, chat())).degraded is None
            degraded = sum(told.degraded is not None for told in answers)
            labels = frozenset({("route", "echo"), ("step", "shorter_answer")})
            async with asyncio.timeout(5):  # an ended request is booked a moment later
                while (await daemon.metrics())["headgate_degraded_total", labels] != degraded:
                    await asyncio.sleep(0.05)


async def test_the_backend_is_sent_the_lower_limit_under_the_name_that_the_client_used(tmp_path: Path):
    async with ScriptedBackend(counts_as_told) as backend:
        path = configured(tmp_path, CONFIG.format(base_url=backend.base_url, steps=STEPS))
        async with serving(path) as daemon, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            base = f"{daemon.address}/v1"
            plain = chat(model="passed-on")
            await warmed(session, base, plain)
            given: list[dict[str, int]] = [{}, {"max_tokens": 50}, {"max_completion_tokens": 50}, {"max_tokens": 4}]
            limits = [given[number % len(given)] for number in range(50)]
            answers = await asyncio.gather(
                *[ask(session, base, {**plain, **limit}, f"n-{at}") for at, limit in enumerate(limits)]
            )
            sent = {exchange.headers["x-request-id"]: exchange.json for exchange in backend.exchanges if exchange.body}
            seen: Counter[str | None] = Counter()
            for at, (limit, told) in enumerate(zip(limits, answers, strict=True)):
                assert told.status == 200
                seen[told.degraded] += 1
                body = sent[f"n-{at}"]
                names = ("max_tokens", "max_completion_tokens")
                reached = {name: body[name] for name in names if name in body}
                if told.degraded is None:
                    assert reached == limit
                else:
                    _, _, lowered = told.degraded.partition("=")
                    assert reached == dict.fromkeys(limit or ["max_tokens"], int(lowered))
                    assert told.length == (int(lowered), "length")
            assert set(seen) == {None, "max_tokens=10", "max_tokens=5"}


async def test_fewer_passages_are_retrieved_and_cited():
    """In this process: a store that is really searched, over real HTTP."""
    library = MemoryRetriever(Lexical())
    await library.add("docs", "sea.md", SEA)
    steps = [
        {"kind": "fewer_passages", "passages": 1, "pressure": 0.1},
        {"kind": "shorter_answer", "max_tokens": 2, "pressure": 0.2},
        {"kind": "fewer_passages", "passages": 0, "pressure": 0.3},
    ]
    conf = config(
        admission={"codel": False},
        workers=[{"name": "echo", "kind": "echo", "first_token_ms": 40, "concurrency": 1}],
        routes=[{"name": "echo", "worker": "echo", "collection": "docs", "wait_budget_ms": 2000, "degrade": steps}],
        collections=[{"name": "docs", "store": "memory"}],
    )
    async with (
        http.serving(conf, retriever=library) as served,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        body = chat("the lamp, the ferry and the tide")
        await warmed(session, served.base_url, body)
        answers = await asyncio.gather(*[ask(session, served.base_url, body) for _ in range(25)])
        assert {told.status for told in answers} == {200}
        assert {(told.degraded, len(told.answer["citations"]), told.length) for told in answers} == {
            (None, 3, (7, "stop")),
            ("passages=1", 1, (7, "stop")),
            ("passages=1, max_tokens=2", 1, (2, "length")),
            ("passages=0, max_tokens=2", 0, (2, "length")),
        }
        assert (await ask(session, served.base_url, body)).degraded is None
