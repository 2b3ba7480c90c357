"""A real daemon with two replicas behind one worker, of which one falls ill: who is asked, and what is shown of it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from tests.process.daemon import Daemon, chat, configured, serving
from tests.servers import Exchange, ScriptedBackend, chunk, streamed, usage_chunk, whole

pytestmark = pytest.mark.slow

SETTINGS = """
[[workers]]
name = "pool"
kind = "openai"
replicas = {replicas}
model = "m"
affinity = false
breaker_failures = 2
breaker_open_ms = 300
retry_base_ms = 1
health_interval_ms = {interval}
slow_start_ms = 0

[[routes]]
name = "echo"
worker = "pool"
"""


class Replica:
    """Lists its models and answers, until it is `ill`."""

    def __init__(self) -> None:
        self.ill = False
        self.calls = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.calls += exchange.path.endswith("/chat/completions")
        if self.ill:
            await exchange.send(whole({"error": {"message": "out of memory"}}, status=500))
        elif exchange.path.endswith("/models"):
            await exchange.send(whole({"object": "list", "data": [{"id": "m"}]}))
        elif exchange.path.endswith("/chat/completions"):
            await exchange.send(streamed(chunk("hello"), chunk(finish="stop"), usage_chunk()))
        else:
            await exchange.send(whole({}, status=404))


async def asked(daemon: Daemon) -> int:
    async with (
        aiohttp.ClientSession(daemon.address) as session,
        session.post("/v1/chat/completions", json=chat(stream=True)) as response,
    ):
        await response.read()
        return response.status


def name(backend: ScriptedBackend) -> str:
    return backend.base_url.partition("://")[2]


async def shown(daemon: Daemon, metric: str, replica: str) -> float | None:
    labels = frozenset({("worker", "pool"), ("replica", replica)})
    return (await daemon.metrics()).get((f"headgate_replica_{metric}", labels))


async def until(daemon: Daemon, metric: str, replica: str, right: Callable[[float], bool]) -> None:
    until = time.monotonic() + 10
    while (found := await shown(daemon, metric, replica)) is None or not right(found):
        assert time.monotonic() < until, (metric, found, daemon.stderr)
        await asyncio.sleep(0.02)


def settings(folder: Path, *backends: ScriptedBackend, interval: int) -> Path:
    replicas = str([backend.base_url for backend in backends]).replace("'", '"')
    return configured(folder, SETTINGS.format(replicas=replicas, interval=interval))


async def test_one_that_fails_calls_is_left_alone_and_tried_again(tmp_path):
    well, ill = Replica(), Replica()
    async with (
        ScriptedBackend(well) as one,
        ScriptedBackend(ill) as two,
        serving(settings(tmp_path, one, two, interval=0)) as daemon,
    ):
        ill.ill = True
        for _ in range(6):
            assert await asked(daemon) == 200
        await until(daemon, "state", name(two), lambda state: state == 2)
        assert await shown(daemon, "state", name(one)) == 0
        assert await shown(daemon, "failures_total", name(two)) == ill.calls >= 2
        assert await shown(daemon, "calls_total", name(one)) == well.calls == 6
        metrics = await daemon.metrics()
        assert metrics["headgate_worker_retries_total", frozenset({("worker", "pool")})] == ill.calls
        command = ["workers", "--config", str(tmp_path / "pipeline.toml")]
        table = await asyncio.to_thread(CliRunner(env={"COLUMNS": "160"}).invoke, main, command)
        row = next(line.split() for line in table.stdout.splitlines() if name(two) in line)
        assert row[:4] == ["pool", name(two), "open", "well"]
        ill.ill = False
        while not daemon.logged("circuit_closed"):
            assert await asked(daemon) == 200
        await until(daemon, "state", name(two), lambda state: state == 0)
        opened, closed = daemon.logged("circuit_opened"), daemon.logged("circuit_closed")
        assert {(line["worker"], line["replica"]) for line in [*opened, *closed]} == {("pool", name(two))}


async def test_one_that_looks_ill_gets_no_calls_until_it_looks_well(tmp_path):
    well, ill = Replica(), Replica()
    ill.ill = True
    async with (
        ScriptedBackend(well) as one,
        ScriptedBackend(ill) as two,
        serving(settings(tmp_path, one, two, interval=50)) as daemon,
    ):
        await until(daemon, "healthy", name(two), lambda healthy: healthy == 0)
        for _ in range(4):
            assert await asked(daemon) == 200
        assert (well.calls, ill.calls) == (4, 0)
        assert daemon.logged("replica_down")[0]["detail"] == "GET /models answered 500"
        ill.ill = False
        await until(daemon, "healthy", name(two), lambda healthy: healthy == 1)
        while not ill.calls:
            assert await asked(daemon) == 200
        assert [line["replica"] for line in daemon.logged("replica_up")] == [name(two)]
