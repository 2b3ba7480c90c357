"""Runs in a daemon whose processes die, hang, are replaced and are stopped: each goes on, and nothing that was done is
done again."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pipeline.workflow.client import WorkflowClient
from tests.e2e.flows import Host, chain, counted, daemon_of, journalled, seen, whole
from tests.process.daemon import Daemon, gone, serving

pytestmark = pytest.mark.slow

NEW = '[[routes]]\nname = "new"\nworker = "echo"\n'


async def logged(daemon: Daemon, event: str, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(daemon.logged(event)) < times:
            await asyncio.sleep(0.02)


async def test_runs_and_their_watchers_outlive_processes(tmp_path: Path):
    async with Host(0.1) as host, serving(daemon_of(tmp_path), shards=2) as daemon:
        async with WorkflowClient(daemon.address, patience=20) as client:
            await client.register(chain(host.url))

            async def one(number: int, route: str = "echo") -> bool:
                made = "chain@1" if route == "echo" else chain(host.url, route=route)
                run = await client.start(made, {"n": number}, idempotency_key=f"run-{number}")
                return whole(await seen(daemon.address, run.id))

            first = [asyncio.create_task(one(number)) for number in range(60)]
            await host.called("/call/20/first")
            pids = await daemon.pids()
            os.kill(pids["shard 1"], signal.SIGKILL)
            await logged(daemon, "process_ready", 3)
            second = [asyncio.create_task(one(number)) for number in range(60, 100)]
            daemon.signal(signal.SIGUSR2)
            await logged(daemon, "process_retired")
            daemon_of(tmp_path, routes=NEW)
            daemon.signal(signal.SIGHUP)
            await logged(daemon, "reload_applied")
            assert await client.validate(chain(host.url, route="new")) == []
            assert [fault.where for fault in await client.validate(chain(host.url, route="old"))] == ["steps.say.route"]
            third = [asyncio.create_task(one(number, "new")) for number in range(100, 120)]
            assert all(await asyncio.gather(*first, *second, *third))
            await logged(daemon, "replaced", 2)
            assert (await journalled(client)) == {"runs completed": 120, "runs_submitted": 120, "steps completed": 360}
        assert {len(set(keys)) for keys in host.calls.values()} == {1}
        # Only what the killed process had under way was called again.
        again = {path for path, keys in host.calls.items() if len(keys) > 1}
        assert all(int(path.split("/")[2]) < 60 for path in again)


async def test_what_a_stop_cuts_off_has_not_failed(tmp_path: Path):
    path = daemon_of(tmp_path, server="drain_timeout_ms = 500")
    async with Host() as host:
        gate = host.hold("call")
        async with serving(path, shards=2) as daemon, WorkflowClient(daemon.address) as client:
            runs = [(await client.start(chain(host.url), {"n": number})).id for number in range(10)]
            for number in range(10):
                await host.called(f"/call/{number}/first")
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended(5) == 0
            assert not daemon.logged("step_broke")
        gate.set()
        async with serving(path, shards=2) as daemon, WorkflowClient(daemon.address) as client:
            for run in runs:
                found = await client.wait(run, 20)
                assert (found.state, [step.attempt for step in found.steps]) == ("completed", [2, 1, 1])
            assert await journalled(client) == {"runs completed": 10, "runs_submitted": 10, "steps completed": 30}
            await until_counted(daemon, {"runs completed": 10, "steps completed": 30, "runs_resumed": 10})
        assert {len(set(keys)) for keys in host.calls.values()} == {1}


async def test_steps_have_the_time_of_a_drain_to_end(tmp_path: Path):
    path = daemon_of(tmp_path, lease=1000, server="drain_timeout_ms = 10000")
    async with Host() as host:
        gate = host.hold("call")
        async with serving(path, shards=2) as daemon, WorkflowClient(daemon.address) as client:
            runs = [(await client.start(chain(host.url), {"n": number})).id for number in range(10)]
            for number in range(10):
                await host.called(f"/call/{number}/first")
            daemon.signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(1.8, gate.set)  # longer than a lease, and than prompts need
            assert await daemon.ended(8) == 0
        async with serving(path, shards=2) as daemon, WorkflowClient(daemon.address) as client:
            for run in runs:
                found = await client.wait(run, 20)
                assert (found.state, [step.attempt for step in found.steps]) == ("completed", [1, 1, 1])
            assert not daemon.logged("lease_lost")
        assert {len(keys) for keys in host.calls.values()} == {1}


async def test_a_process_that_hangs_loses_its_runs_to_the_next(tmp_path: Path):
    async with Host(0.2) as host:
        path = daemon_of(tmp_path, lease=1000, server="blocked_ms = 1500")
        async with serving(path, shards=2) as daemon, WorkflowClient(daemon.address, patience=20) as client:
            runs = [(await client.start(chain(host.url), {"n": number})).id for number in range(30)]
            pids = await daemon.pids()
            os.kill(pids["shard 1"], signal.SIGSTOP)
            assert await gone([pids["shard 1"]], 10)
            for run in runs:
                assert (await client.wait(run, 20)).state == "completed"
            assert len(daemon.logged("process_blocked")) == 1
            assert await journalled(client) == {"runs completed": 30, "runs_submitted": 30, "steps completed": 90}
        assert {len(set(keys)) for keys in host.calls.values()} == {1}
        assert max(len(keys) for keys in host.calls.values()) == 2


async def until_counted(daemon: Daemon, expected: dict[str, float]) -> None:
    """A process shows its counts ten times a second."""
    found: dict[str, float] = {}
    for _ in range(50):
        found = {name: value for name, value in (await counted(daemon)).items() if value}
        if found == expected:
            return
        await asyncio.sleep(0.05)
    assert found == expected
