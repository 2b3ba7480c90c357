"""Workflows in a daemon: switched off, with a journal that is in trouble, over several shards, for several keys."""

import asyncio
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pipeline.workflow.client import WorkflowApiError, WorkflowClient
from tests.e2e.flows import Host, chain, counted, daemon_of, journalled, request
from tests.e2e.test_keys import key_hash
from tests.process.daemon import Daemon, chat, serving

pytestmark = pytest.mark.slow

KEYS = {name: f"hg_{letter * 40}" for name, letter in (("alice", "a"), ("bob", "b"), ("narrow", "c"))}
TWO_ROUTES = '[[routes]]\nname = "other"\nworker = "echo"\n'
WAIT = {"name": "wait", "version": "1", "steps": [{"id": "nap", "type": "wait", "seconds": 1}]}
SIGNAL = {
    "name": "signal",
    "version": "1",
    "steps": [{"id": "told", "type": "wait", "event": "go"}],
    "outputs": {"told": "{{ steps.told.value }}"},
}


async def eventually(found: Any, expected: Any) -> None:
    """`found()` comes to what is expected within a few seconds."""
    async with asyncio.timeout(10):
        while (await found()) != expected:
            await asyncio.sleep(0.02)


async def test_where_they_are_switched_off_every_path_says_so_and_no_journal_is_made(tmp_path: Path):
    async with serving(daemon_of(tmp_path, more="enabled = false")) as daemon:
        for path in ("/v1/runs", "/v1/workflows", "/v1/runs/run_1/events"):
            status, answer, _ = await request(daemon, "GET", path)
            assert (status, answer["error"]["code"]) == (404, "unknown_url")
            assert "workflows.enabled" in answer["error"]["message"]
        assert not list((tmp_path / "data").glob("workflows*"))


class TestAJournalThatCannotBeOpened:
    @pytest.mark.parametrize("what", ["newer", "garbage"])
    async def test_is_told_of_and_opened_once_it_is_repaired(self, tmp_path: Path, what: str):
        journal = tmp_path / "data" / "workflows.db"
        journal.parent.mkdir(mode=0o700)
        spoil(journal, what)
        async with Host() as host, serving(daemon_of(tmp_path), shards=2) as daemon:
            async with aiohttp.ClientSession() as session:
                asking = session.post(daemon.address + "/v1/chat/completions", json=chat())
                async with asking as response:
                    assert response.status == 200
            await logged(daemon, "journal_unavailable", 2)
            for method, body in (("GET", None), ("POST", {"definition": chain(host.url), "inputs": {"n": 1}})):
                status, answer, headers = await request(daemon, method, "/v1/runs", body)
                assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "journal_unavailable", "1")
                assert str(journal) in answer["error"]["message"]
            journal.unlink()
            async with WorkflowClient(daemon.address) as client:
                for number in range(4):
                    run = await client.start(chain(host.url), {"n": number})
                    assert (await client.wait(run.id, 10)).state == "completed"
            # Said once by each shard, however often it was tried.
            assert Counter(line["process"] for line in daemon.logged("journal_unavailable")) == {
                "shard 0": 1,
                "shard 1": 1,
            }
            assert len(daemon.logged("journal_back")) == 2


def spoil(journal: Path, what: str) -> None:
    if what == "garbage":
        journal.write_bytes(b"certainly no database " * 500)
    else:
        with sqlite3.connect(journal) as connection:
            connection.execute("CREATE TABLE later (x)")
            connection.execute(f"PRAGMA application_id = {0x48475746}")
            connection.execute("PRAGMA user_version = 99")
        connection.close()


async def test_a_journal_that_goes_while_runs_are_under_way_loses_none_and_is_told_of_once(tmp_path: Path):
    async with Host() as host, serving(daemon_of(tmp_path, lease=1000), shards=2) as daemon:
        gate = host.hold("call")
        async with WorkflowClient(daemon.address, patience=20) as client:
            runs = [(await client.start(chain(host.url), {"n": number})).id for number in range(20)]
            for number in range(20):
                await host.called(f"/call/{number}/first")
            files = [file for file in (tmp_path / "data").glob("workflows.db*") if file.is_file()]
            for file in files:
                file.rename(file.with_name(f"away-{file.name}"))
            gate.set()
            await logged(daemon, "journal_unavailable", 2)
            status, answer, _ = await request(daemon, "GET", "/v1/runs")
            assert (status, "is gone: put it back" in answer["error"]["message"]) == (503, True)
            await asyncio.sleep(1.5)  # longer than a lease: it is renewed, which does not mean that the file is back
            for file in files:
                file.with_name(f"away-{file.name}").rename(file)
            for run in runs:
                assert (await client.wait(run, 20)).state == "completed"
            assert await journalled(client) == {"runs completed": 20, "runs_submitted": 20, "steps completed": 60}
            assert {len(keys) for keys in host.calls.values()} == {1}
            await logged(daemon, "journal_back", 2)
            assert len(daemon.logged("journal_unavailable")) == len(daemon.logged("journal_back")) == 2


async def test_a_journal_in_memory_serves_one_shard(tmp_path: Path):
    async with Host() as host, serving(daemon_of(tmp_path, more='journal = "memory"')) as daemon:
        async with WorkflowClient(daemon.address) as client:
            run = await client.start(chain(host.url), {"n": 1})
            assert (await client.wait(run.id, 10)).outputs == {"said": "/call/1/first"}
        assert not list((tmp_path / "data").glob("workflows*"))


async def test_runs_that_ended_long_ago_are_deleted(tmp_path: Path):
    path = daemon_of(tmp_path, more="retention_hours = 1")
    async with Host() as host:
        async with serving(path) as daemon, WorkflowClient(daemon.address) as client:
            old, new = [(await client.start(chain(host.url), {"n": number})).id for number in range(2)]
            for run in (old, new):
                await client.wait(run, 10)
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
        with sqlite3.connect(tmp_path / "data" / "workflows.db") as connection:
            connection.execute("UPDATE runs SET ended_at = ended_at - 3601 WHERE id = ?", (old,))
        connection.close()
        async with serving(path) as daemon, WorkflowClient(daemon.address) as client:

            async def kept() -> list[str]:
                return [run.id async for run in client.runs()]

            await eventually(kept, [new])


class TestOverTwoShards:
    async def test_a_run_is_the_same_whichever_shard_is_asked(self, tmp_path: Path):
        async with Host() as host, serving(daemon_of(tmp_path), shards=2) as daemon:
            body = {"definition": chain(host.url), "inputs": {"n": 1}}
            keyed = {"Idempotency-Key": "order-17"}
            answers = await asyncio.gather(*(request(daemon, "POST", "/v1/runs", body, **keyed) for _ in range(30)))
            assert len({answer["id"] for _, answer, _ in answers}) == 1
            assert Counter(status for status, _, _ in answers) == {201: 1, 200: 29}
            async with WorkflowClient(daemon.address) as client:
                waiting = [(await client.start(WAIT)).id for _ in range(20)]
                gate = host.hold("held")
                for number in range(8):
                    run = await client.start(chain(host.url, path="held"), {"n": number})
                    await host.called(f"/held/{number}/first")
                    assert await changed(daemon, run.id) == [200, 409, 200, 409, 200, 409, 200, 200, 200]
                gate.set()
                for number in range(8):
                    run = await client.start(SIGNAL)
                    await eventually(lambda run=run: state_of(client, run.id), "waiting")
                    status, _, _ = await request(
                        daemon, "POST", f"/v1/runs/{run.id}/signal", {"event": "go", "payload": number}
                    )
                    assert status == 200
                    assert (await client.wait(run.id, 10)).outputs == {"told": number}
                for run_id in waiting:
                    ended = await client.wait(run_id, 10)
                    took = (ended.steps[0].ended_at or 0) - (ended.steps[0].started_at or 0)
                    assert (ended.state, 1 <= took < 1.9) == ("completed", True)
                there = await journalled(client)

            async def same() -> bool:
                found = await counted(daemon)
                return all(found[f"runs {state}"] == there.get(f"runs {state}", 0) for state in ("completed", "failed"))

            await eventually(same, True)
            found = await counted(daemon)
            # Those that were cancelled were so twice: before and after their retry.
            assert (there["runs cancelled"], found["runs cancelled"], found["runs_submitted"]) == (8, 16, 37)
            assert found["steps completed"] == there["steps completed"]


async def changed(daemon: Daemon, run: str) -> list[int]:
    """What everything that can be asked of a run is answered with; each over a connection of its own."""
    asked = ("pause", "pause", "resume", "resume", "cancel", "cancel", "retry", "pause", "cancel")
    return [(await request(daemon, "POST", f"/v1/runs/{run}/{what}"))[0] for what in asked]


async def state_of(client: WorkflowClient, run: str) -> str:
    return (await client.run(run)).state.value


def keys(revoked: str = "") -> str:
    text = TWO_ROUTES
    for name, key in KEYS.items():
        text += f'[[keys]]\nname = "{name}"\nhash = "{key_hash(key)}"\nrevoked = {str(name == revoked).lower()}\n'
        text += 'routes = ["echo"]\n' if name == "narrow" else ""
    return text


async def test_keys_have_their_own_runs_and_what_they_may_use(tmp_path: Path):
    async with (
        Host() as host,
        serving(daemon_of(tmp_path, routes=keys()), shards=2) as daemon,
        WorkflowClient(daemon.address, KEYS["alice"]) as alice,
        WorkflowClient(daemon.address, KEYS["bob"]) as bob,
        WorkflowClient(daemon.address, KEYS["narrow"]) as narrow,
    ):
        run = await alice.start(chain(host.url, route="other"), {"n": 0})
        assert (await alice.wait(run.id, 10)).state == "completed"
        assert [found.id async for found in bob.runs()] == []
        for ask in (bob.run, bob.pause, bob.cancel, bob.retry):
            with pytest.raises(WorkflowApiError, match="There is no run"):
                await ask(run.id)
        with pytest.raises(WorkflowApiError, match="may not use") as refused:
            await narrow.start(chain(host.url, route="other"), {"n": 1})
        assert refused.value.status == 403
        # What a template names is known when the step is about to start.
        run = await narrow.start(chain(host.url, route="{{ ['echo', 'other'][inputs.n] }}"), {"n": 1})
        error = (await narrow.wait(run.id, 10)).error
        assert error is not None
        assert (error["kind"], error["details"]["status"], error["step"]) == ("permission_denied", 403, "say")
        gate = host.hold("held")
        run = await alice.start(chain(host.url, path="held"), {"n": 2})
        await host.called("/held/2/first")
        daemon_of(tmp_path, routes=keys(revoked="alice"))
        daemon.signal(signal.SIGHUP)
        await logged(daemon, "reload_applied")
        gate.set()
        with pytest.raises(WorkflowApiError) as refused:
            await alice.run(run.id)
        assert refused.value.status == 401
        await asyncio.sleep(0.3)  # nobody can ask whether it has ended
        daemon_of(tmp_path, routes=keys())
        daemon.signal(signal.SIGHUP)
        await logged(daemon, "reload_applied", 2)
        ended = await alice.wait(run.id, 10)
        assert (ended.state, (ended.error or {})["kind"]) == ("failed", "unauthorized")


async def logged(daemon: Daemon, event: str, times: int = 1) -> None:
    async with asyncio.timeout(20):
        while len(daemon.logged(event)) < times:
            await asyncio.sleep(0.02)
