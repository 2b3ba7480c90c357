"""Usage, from what clients are told to what operators see: two shards, two keys, a backend that counts."""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pipeline.policy.access import key_hash
from tests.process.daemon import Daemon, chat, configured, gone, serving
from tests.process.test_shards import until
from tests.servers import Exchange, ScriptedBackend, chunk, completion, streamed, usage_chunk, whole

KEYS = {name: f"hg_{name}_{'x' * 43}" for name in ("alice", "bob")}
CONFIG = """
[[workers]]
name = "model"
kind = "openai"
base_url = "{url}"

[[routes]]
name = "plain"
worker = "model"

[[routes]]
name = "brief"
worker = "model"

[[keys]]
name = "alice"
hash = "{alice}"

[[keys]]
name = "bob"
hash = "{bob}"
"""

DETAILS = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}


async def count(exchange: Exchange) -> None:
    """Says that a prompt is as many tokens as it has characters; one of four answers is streamed without a count."""
    if not exchange.path.endswith("/chat/completions"):  # how it is, and what it can do
        await exchange.send(whole({}, 404))
        return
    prompt = len(exchange.json["messages"][-1]["content"])
    if not exchange.json.get("stream"):
        answer = completion("fine")
        answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3, **DETAILS}
        await exchange.send(whole(answer))
    elif prompt % 2:
        await exchange.send(streamed(chunk("fi"), chunk("ne", finish="stop"), usage_chunk(prompt, 2)))
    else:
        await exchange.send(streamed(chunk("fi"), chunk("ne", finish="stop")))


async def ask(daemon: Daemon, number: int, told: "Counter[tuple[str, str, str]]") -> None:
    """One of several kinds of requests; books what its client is told."""
    key, model, stream = ("alice", "bob")[number % 2], ("plain", "brief")[number // 2 % 2], number % 3 == 0
    headers = {"Authorization": f"Bearer {KEYS[key]}", "X-Session-Id": f"s{number}"}
    body = chat("x" * (10 + number), stream=stream, model=model) | (
        {"stream_options": {"include_usage": True}} if stream else {}
    )
    url = daemon.address + "/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        assert response.status == 200
        text = await response.text()
    told[key, model, "requests"] += 1
    payloads = [line.removeprefix("data: ") for line in text.splitlines()] if stream else [text]
    usages = [json.loads(line).get("usage") for line in payloads if line.startswith("{")]
    usage: dict[str, Any] | None = next((found for found in usages if found), None)
    if usage is None:
        told[key, model, "estimated_requests"] += 1
        return
    told[key, model, "prompt_tokens"] += usage["prompt_tokens"]
    told[key, model, "completion_tokens"] += usage["completion_tokens"]
    told[key, model, "cached_tokens"] += usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    told[key, model, "reasoning_tokens"] += usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)


async def usage(daemon: Daemon, folder: Path, by: str) -> dict[str, Any]:
    connector = aiohttp.UnixConnector(str(folder / "data" / "supervisor.sock"))
    url = f"http://x/usage?by={by}"
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        assert response.status == 200
        return await response.json()


def booked(answer: dict[str, Any]) -> "Counter[tuple[str, str, str]]":
    """Without what was estimated: of that clients are told nothing."""
    found: Counter[tuple[str, str, str]] = Counter()
    for row in answer["rows"]:
        for name, number in row["figures"].items():
            if number and name != "estimated_tokens":
                found[row["key"], row["route"], name] = number
    return found


@pytest.mark.slow
async def test_sums_agree_with_what_clients_were_told_and_survive_a_shard(tmp_path: Path):
    hashes = {name: key_hash(key) for name, key in KEYS.items()}
    told: Counter[tuple[str, str, str]] = Counter()
    async with ScriptedBackend(count) as backend:
        path = configured(tmp_path, CONFIG.format(url=backend.base_url, **hashes))
        async with serving(path, shards=2) as daemon:
            await asyncio.gather(*(ask(daemon, number, told) for number in range(40)))

            async def complete() -> bool:
                return (await usage(daemon, tmp_path, "key"))["total"]["requests"] == 40

            await until(complete)
            answer = await usage(daemon, tmp_path, "key,route")
            estimated = answer["total"]["estimated_tokens"]
            found = booked(answer)
            for key, route in {(key, route) for key, route, _ in found}:
                figures = next(r["figures"] for r in answer["rows"] if (r["key"], r["route"]) == (key, route))
                assert (figures["estimated_tokens"] > 0) == (figures["estimated_requests"] > 0)
            of_workers = {"prompt_tokens": 0, "completion_tokens": 0}
            for (_, _, name), number in found.items():
                if name in of_workers:
                    of_workers[name] += number
            assert sum(of_workers.values()) == estimated + sum(
                number for (*_, name), number in told.items() if name in of_workers
            )
            for name in ("requests", "cached_tokens", "reasoning_tokens", "estimated_requests"):
                for who in {(key, route) for key, route, _ in told}:
                    assert found[*who, name] == told[*who, name], (who, name)
            assert told["bob", "plain", "cached_tokens"] > 0

            pids = await daemon.pids()
            os.kill(pids["shard 0"], signal.SIGKILL)
            assert await gone([pids["shard 0"]], 5)
            assert await usage(daemon, tmp_path, "key,route") | {"uptime_s": 0} == answer | {"uptime_s": 0}
            metrics = await daemon.metrics()
            requests = {name: value for name, value in metrics.items() if name[0] == "headgate_usage_requests_total"}
            assert sum(requests.values()) == 40
            of_alice = frozenset({"key": "alice", "route": "brief", "worker": "model"}.items())
            assert requests["headgate_usage_requests_total", of_alice] == told["alice", "brief", "requests"]
            tokens = sum(
                value
                for (name, labels), value in metrics.items()
                if name == "headgate_usage_tokens_total" and ("type", "estimated") in labels
            )
            assert tokens == estimated


@pytest.mark.slow
async def test_what_a_shard_has_not_told_yet_it_tells_when_it_is_replaced(tmp_path: Path):
    hashes = {name: key_hash(key) for name, key in KEYS.items()}
    told: Counter[tuple[str, str, str]] = Counter()
    async with ScriptedBackend(count) as backend:
        path = configured(tmp_path, CONFIG.format(url=backend.base_url, **hashes))
        async with serving(path) as daemon:
            before = (await daemon.pids())["shard 0"]
            await ask(daemon, 1, told)
            daemon.signal(signal.SIGUSR2)
            assert await gone([before], 10)
            assert (await usage(daemon, tmp_path, "key"))["total"]["requests"] == 1
