"""Several shards in real processes, with real signals: a crash stays where it is, and the daemon is one thing."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.process.daemon import ECHO, Daemon, alive, chat, configured, gone, serving, started
from tests.process.test_life import Clients, ask, books

pytestmark = pytest.mark.slow

TROUBLED = """
from pipeline.process import crew
crew._SHARD = "tests.process.troubled"
from pipeline.cli import main
main()
"""


async def readiness(daemon: Daemon) -> tuple[int, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(daemon.address + "/readyz") as response:
        return response.status, (await response.json())["detail"]


async def until(condition, within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


async def states(daemon: Daemon) -> list[str]:
    return [process["state"] for process in (await daemon.status())["processes"]]


def counters(metrics) -> dict:
    """What must never go back."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return {key: value for key, value in metrics.items() if key[0].endswith(ends) and "process_cpu" not in key[0]}


class Scrapes:
    """Scrapes again and again until told to stop, and compares each with the one before."""

    def __init__(self, daemon: Daemon) -> None:
        self.number = 0
        self.went_back: list[str] = []
        self.unbalanced: list[tuple] = []
        self._daemon = daemon
        self._stop = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        before: dict = {}
        while not self._stop:
            with suppress(aiohttp.ClientError):  # whoever was asked is dead
                metrics = await self._daemon.metrics()
                after = counters(metrics)
                self.went_back += [str(key) for key, value in before.items() if after.get(key, -1.0) < value]
                offered, opened, ended = books(metrics)
                if offered != opened + sum(ended.values()) or opened < 0:
                    self.unbalanced.append((offered, opened, ended))
                before = after
                self.number += 1

    async def stop(self) -> None:
        self._stop = True
        await self._task


class TestCrash:
    async def test_no_counter_goes_back_while_shards_are_killed(self, tmp_path):
        async with serving(configured(tmp_path, worker="tokens = 5\ntokens_per_s = 50.0"), shards=2) as daemon:
            clients, scrapes = Clients(daemon.address, 10), Scrapes(daemon)
            for shard in ("shard 0", "shard 1", "shard 0"):
                await asyncio.sleep(0.2)
                pid = (await daemon.pids())[shard]
                os.kill(pid, signal.SIGKILL)
                assert await gone([pid], 1)
                await until(lambda: all_ready(daemon))
            await clients.stop()
            await scrapes.stop()
            assert scrapes.number > 5
            assert scrapes.went_back == []
            assert scrapes.unbalanced == []
            metrics = await daemon.metrics()
            offered, opened, ended = books(metrics)
            assert opened == 0
            assert offered == sum(ended.values())
            assert set(ended) == {("completed", "done"), ("failed", "shard_lost")}
            lost = sum(books(metrics, route)[2].get(("failed", "shard_lost"), 0) for route in ("echo", "-"))
            assert clients.answered > 10
            deaths = daemon.logged("process_died")
            assert [line["status"] for line in deaths] == ["killed by SIGKILL"] * 3
            assert 1 <= sum(line["lost"] for line in deaths) <= lost  # a relayed one is lost where it was accepted

    async def test_of_the_supervisor_ends_all(self, tmp_path):
        async with serving(configured(tmp_path), shards=2) as daemon:
            pids = list((await daemon.pids()).values())
            daemon.signal(signal.SIGKILL)
            assert await gone(pids, 2)


async def all_ready(daemon: Daemon) -> bool:
    return set(await states(daemon)) == {"ready"}


class TestStart:
    async def test_one_shard_that_cannot_start_is_named(self, tmp_path):
        path = configured(tmp_path)
        async with started(path, shards=2, command=TROUBLED, TROUBLE="dies-at-start 1") as daemon:
            assert await daemon.ended() == 1
            assert daemon.stderr.splitlines()[-1] == (
                "Error: The shard 1 process died 3 times while it started (exit status 7); the log says more."
            )

    async def test_a_port_that_another_daemon_has(self, tmp_path):
        (tmp_path / "second").mkdir()
        async with serving(configured(tmp_path), shards=2) as first:
            port = first.address.rpartition(":")[2]
            async with started(configured(tmp_path / "second", server=f"port = {port}"), shards=2) as second:
                assert await second.ended() == 1
                (line,) = second.stderr.splitlines()
            assert line.startswith(f"Error: Cannot listen on 127.0.0.1:{port}: port {port} is in use")
            assert await ask(first.address) in {"0", "1"}


class TestGivenUp:
    async def test_the_others_go_on(self, tmp_path):
        path = configured(tmp_path, server="restart_limit = 2")
        async with started(path, shards=2, command=TROUBLED, TROUBLE="dies-later 1") as daemon:
            await daemon.announced()
            await until(lambda: logged(daemon, "process_given_up"))
            (line,) = daemon.logged("process_given_up")
            assert (line["name"], line["deaths"], line["because"]) == ("shard 1", 2, "exit status 7")
            assert await readiness(daemon) == (200, {"shard 0": "ready", "shard 1": "given up"})
            assert await ask(daemon.address) == "0"
            metrics = await daemon.metrics()
            assert metrics["headgate_process_ready", frozenset({("process", "shard 1")})] == 0
            assert metrics["headgate_shard_restarts_total", frozenset({("shard", "1")})] == 1
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0

    async def test_with_none_left_the_daemon_ends_and_says_why(self, tmp_path):
        path = configured(tmp_path, server="restart_limit = 1")
        async with started(path, shards=2, command=TROUBLED, TROUBLE="dies-later 0 1") as daemon:
            assert await daemon.ended() == 1
            assert daemon.stderr.splitlines()[-1] == (
                "Error: No shard is left: each died once (server.restart_limit). Last, shard 0: exit status 7; "
                "shard 1: exit status 7. The log says more."
            )


async def logged(daemon: Daemon, event: str) -> bool:
    return bool(daemon.logged(event))


class TestBlocked:
    async def test_a_blocked_loop_is_shown_ended_and_replaced(self, tmp_path):
        path = configured(tmp_path, server="blocked_ms = 600")
        async with started(path, shards=2, command=TROUBLED, TROUBLE="blocks 0") as daemon:
            await daemon.announced()
            await daemon.until_ready()
            before = await daemon.pids()
            (tmp_path / "data" / "block").touch()
            await until(lambda: logged(daemon, "process_blocked"))
            assert await gone([before["shard 0"]], 2)
            await until(lambda: all_ready(daemon))
            after = await daemon.pids()
            assert after["shard 0"] != before["shard 0"]
            assert after["shard 1"] == before["shard 1"]
            (line,) = daemon.logged("process_blocked")
            assert (line["name"], line["pid"], line["level"]) == ("shard 0", before["shard 0"], "error")
            assert 0.6 <= line["seconds"] < 3
            assert "in spin_for_ever" in daemon.stderr


class TestReplace:
    async def test_one_after_the_other_while_requests_run(self, tmp_path):
        async with serving(configured(tmp_path, worker="tokens = 5\ntokens_per_s = 100.0"), shards=2) as daemon:
            clients, scrapes = Clients(daemon.address, 8), Scrapes(daemon)
            before = await daemon.pids()
            await asyncio.sleep(0.2)
            daemon.signal(signal.SIGUSR2)
            await until(lambda: finished(daemon, 2))
            daemon.signal(signal.SIGUSR2)  # the spare seat has moved: a second time is no different
            await until(lambda: finished(daemon, 4))
            await clients.stop()
            await scrapes.stop()
            after = await daemon.pids()
            assert after["supervisor"] == before["supervisor"]
            assert not {before["shard 0"], before["shard 1"]} & set(after.values())
            assert not any(alive(before[shard]) for shard in ("shard 0", "shard 1"))
            assert clients.broken == 0
            assert clients.answered > 10
            assert (scrapes.went_back, scrapes.unbalanced) == ([], [])
            offered, opened, ended = books(await daemon.metrics())
            assert (opened, set(ended)) == (0, {("completed", "done")})
            assert offered == ended["completed", "done"] == clients.answered
            told = [(line["event"], line["name"]) for line in daemon.log if line["event"] in ("replacing", "replaced")]
            once = [(event, f"shard {shard}") for shard in (0, 1) for event in ("replacing", "replaced")]
            assert told == once * 2
            assert not daemon.logged("process_died")
            assert all(process["restarts"] == 0 for process in (await daemon.status())["processes"])

    async def test_not_while_one_is_under_way(self, tmp_path):
        path = configured(tmp_path, worker="tokens = 50\ntokens_per_s = 50.0")
        async with serving(path, shards=2) as daemon, aiohttp.ClientSession() as session:
            url = daemon.address + "/v1/chat/completions"
            streams = [await session.post(url, json=chat(stream=True)) for _ in range(8)]
            daemon.signal(signal.SIGUSR2)
            await until(lambda: logged(daemon, "replacing"))
            daemon.signal(signal.SIGUSR2)
            await until(lambda: logged(daemon, "replacing_failed"))
            (line,) = daemon.logged("replacing_failed")
            assert "already" in line["because"]
            for stream in streams:
                assert (await stream.read()).rstrip().endswith(b"data: [DONE]")


async def finished(daemon: Daemon, number: int) -> bool:
    return len(daemon.logged("replaced")) >= number


async def test_readiness_names_every_shard_and_is_the_daemons(tmp_path):
    async with serving(configured(tmp_path), shards=2) as daemon:
        assert await readiness(daemon) == (200, {"shard 0": "ready", "shard 1": "ready"})
        os.kill((await daemon.pids())["shard 1"], signal.SIGKILL)
        seen: list[tuple[int, str]] = []

        async def back() -> bool:
            with suppress(aiohttp.ClientError):  # it was accepted by the one that is dead
                status, detail = await readiness(daemon)
                assert detail["shard 0"] == "ready"
                seen.append((status, detail["shard 1"]))
            return len(seen) > 1 and seen[-1][1] == "ready" and seen[-2][1] != "ready"

        await until(back)
        assert {status for status, _ in seen} == {200}
        assert {state for _, state in seen} <= {"ready", "down", "starting"}


async def test_a_machine_that_was_suspended_is_no_blocked_loop(tmp_path):
    """All of the daemon stands still for longer than `blocked_ms`, and nobody is killed for it."""
    async with serving(configured(tmp_path, server="blocked_ms = 500"), shards=2) as daemon:
        pids = await daemon.pids()
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        for pid in pids.values():  # the supervisor first
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)
        assert await daemon.pids() == pids
        assert not daemon.logged("process_blocked")


async def test_a_level_holds_for_all_processes_and_for_those_that_come_later(tmp_path):
    text = ECHO.format(worker="") + '[logging]\nlevel = "warning"\n'
    async with serving(configured(tmp_path, text), shards=2) as daemon:

        async def both_told(after: int) -> bool:
            await ask(daemon.address)
            return {line["process"] for line in daemon.logged("request")[after:]} == {"shard 0", "shard 1"}

        for _ in range(5):
            await ask(daemon.address)
        await set_level(tmp_path / "data" / "supervisor.sock", "info")
        await until(lambda: both_told(0))
        first = daemon.logged("request")[0]
        os.kill((await daemon.pids())["shard 1"], signal.SIGKILL)
        await until(lambda: logged(daemon, "process_died"))
        await until(lambda: all_ready(daemon))
        seen = len(daemon.logged("request"))
        await until(lambda: both_told(seen))
        assert len(daemon.logged("process_ready")) == 1  # of the one that was born after the change
        assert first["level"] == "info"


async def set_level(path: Path, level: str) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.put("http://x/log-level", json={"level": level}) as response,
    ):
        assert response.status == 200, await response.text()
