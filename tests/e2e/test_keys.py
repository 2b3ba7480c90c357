"""Keys and limits as the official client meets them, over a real daemon, and as its counters and logs tell them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from pipeline.policy.access import key_hash
from tests.process.daemon import Daemon, configured, serving

HELLO: Any = [{"role": "user", "content": "hello there"}]
KEYS = {name: f"hg_{name}_{'x' * 43}" for name in ("good", "gone", "narrow", "slow", "frugal", "single", "strange")}
CONFIG = f"""
[[workers]]
name = "echo"
kind = "echo"

[[workers]]
name = "slow"
kind = "echo"
first_token_ms = 60_000

[[routes]]
name = "echo"
worker = "echo"

[[routes]]
name = "slow"
worker = "slow"

[[keys]]
name = "good"
hash = "{key_hash(KEYS["good"])}"

[[keys]]
name = "gone"
hash = "{key_hash(KEYS["gone"])}"
revoked = true

[[keys]]
name = "narrow"
hash = "{key_hash(KEYS["narrow"])}"
routes = ["slow"]

[[keys]]
name = "slow"
hash = "{key_hash(KEYS["slow"])}"
requests_per_minute = 12

[[keys]]
name = "frugal"
hash = "{key_hash(KEYS["frugal"])}"
tokens_per_minute = 6_000

[[keys]]
name = "single"
hash = "{key_hash(KEYS["single"])}"
concurrency = 1
"""


@asynccontextmanager
async def client(daemon: Daemon, key: str) -> AsyncIterator[AsyncOpenAI]:
    """With one of KEYS by its name, or with whatever is given."""
    base_url = f"{daemon.address}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key=KEYS.get(key, key), max_retries=0, timeout=20) as made:
        yield made


async def ask(daemon: Daemon, key: str) -> str | None:
    async with client(daemon, key) as api:
        completion = await api.chat.completions.create(model="echo", messages=HELLO)
        return completion.choices[0].message.content


async def rejected(daemon: Daemon) -> dict[str, float]:
    """How many were rejected, by reason."""
    counts: dict[str, float] = {}
    for (name, fields), value in (await daemon.metrics()).items():
        labels = dict(fields)
        if name == "headgate_requests_total" and labels["outcome"] == "rejected" and value:
            assert labels["stage"] == "ingress"
            counts[labels["reason"]] = counts.get(labels["reason"], 0) + value
    return counts


async def _strangers(daemon: Daemon) -> None:
    assert await ask(daemon, "good") == "hello there"
    for key in ("strange", "gone", "two words", "k" * 4000):
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask(daemon, key)
        assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
        assert KEYS.get(key, key) not in str(refused.value)
    async with client(daemon, "strange") as api:
        with pytest.raises(openai.AuthenticationError):
            await api.models.list()


async def _routes(daemon: Daemon) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        await ask(daemon, "narrow")
    assert (refused.value.code, refused.value.param) == ("permission_denied", "model")
    async with client(daemon, "narrow") as api:
        assert [model.id async for model in api.models.list()] == ["slow"]
    async with client(daemon, "good") as api:
        assert [model.id async for model in api.models.list()] == ["echo", "slow"]


async def _requests(daemon: Daemon) -> None:
    async with client(daemon, "slow") as api:
        raw = await api.chat.completions.with_raw_response.create(model="echo", messages=HELLO)
        assert raw.headers["x-ratelimit-limit-requests"] == "12"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
        await api.chat.completions.create(model="echo", messages=HELLO, stream=True)
        with pytest.raises(openai.RateLimitError) as refused:
            await api.chat.completions.create(model="echo", messages=HELLO)
    error, headers = refused.value, refused.value.response.headers
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(headers["Retry-After"]) <= 5
    assert headers["x-ratelimit-remaining-requests"] == "0"


async def _retries(daemon: Daemon) -> None:
    """The official client comes back when it was told to, and is let in."""
    async with client(daemon, "slow") as api:
        patient = api.with_options(max_retries=2)
        completion = await patient.chat.completions.create(model="echo", messages=HELLO)
    assert completion.choices[0].message.content == "hello there"


async def _tokens(daemon: Daemon) -> None:
    async with client(daemon, "frugal") as api:
        raw = await api.chat.completions.with_raw_response.create(model="echo", messages=HELLO, max_tokens=900)
        usage = raw.parse().usage
        assert usage is not None
        raw = await api.chat.completions.with_raw_response.create(model="echo", messages=HELLO, max_tokens=100)
        # Of the ten seconds' worth, 1000, what was used is gone, not what was estimated.
        assert int(raw.headers["x-ratelimit-remaining-tokens"]) >= 1000 - 110 - 2 * usage.total_tokens
        with pytest.raises(openai.APIStatusError) as large:
            await api.chat.completions.create(model="echo", messages=HELLO, max_tokens=6_000)
        assert large.value.status_code == 413
        long: Any = [{"role": "user", "content": "word " * 3000}]
        patient = api.with_options(max_retries=5)  # it counts more than the bucket holds, and waits until that is full
        await patient.chat.completions.create(model="echo", messages=long, max_tokens=1000)
        with pytest.raises(openai.RateLimitError) as refused:
            await api.chat.completions.create(model="echo", messages=HELLO, max_tokens=100)
        assert refused.value.type == "tokens"
        assert int(refused.value.response.headers["Retry-After"]) > 10


async def _at_once(daemon: Daemon) -> None:
    async with client(daemon, "single") as api:
        first = asyncio.create_task(api.chat.completions.create(model="slow", messages=HELLO))
        await until_offered(daemon, "slow")
        with pytest.raises(openai.RateLimitError) as refused:
            await api.chat.completions.create(model="echo", messages=HELLO)
        assert "1 request at once" in refused.value.message
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        patient = api.with_options(max_retries=5)  # until the daemon has seen that it left
        await patient.chat.completions.create(model="echo", messages=HELLO)


async def until_offered(daemon: Daemon, route: str) -> None:
    async with asyncio.timeout(5):
        while not (await daemon.metrics()).get(("headgate_requests_offered_total", frozenset({("route", route)}))):
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_the_official_client_and_a_keyed_daemon(tmp_path: Path):
    async with serving(configured(tmp_path, CONFIG)) as daemon:
        await _strangers(daemon)
        assert await rejected(daemon) == {"unauthorized": 4}
        await _routes(daemon)
        assert await rejected(daemon) == {"unauthorized": 4, "forbidden": 1}
        await _requests(daemon)
        await _retries(daemon)
        await _tokens(daemon)
        await _at_once(daemon)
        counts = await rejected(daemon)
        assert set(counts) == {
            "unauthorized",
            "forbidden",
            "request_limit",
            "too_large",
            "token_limit",
            "concurrency_limit",
        }
        assert counts["request_limit"] == 2
        assert counts["too_large"] == 1
        await daemon.until_ready()  # a monitor needs no key
    assert "unauthorized" in daemon.stderr
    assert not [name for name, key in KEYS.items() if key in daemon.stderr]
