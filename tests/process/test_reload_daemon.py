"""Changes of the configuration of a real daemon: while its shards come and go, at the start, and many at once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process.daemon import ECHO, Daemon, chat, configured, serving, started
from tests.process.test_life import ask, books
from tests.process.test_shards import TROUBLED, all_ready, logged, set_level, until

pytestmark = pytest.mark.slow

ROUTE = '[[routes]]\nname = "{name}"\nworker = "{worker}"\n'


@asynccontextmanager
async def admin(folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(folder / "data" / "supervisor.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def put(session: aiohttp.ClientSession, path: str, table: dict[str, Any]) -> int:
    async with session.put(f"http://x{path}", json=table) as response:
        return response.status


async def asked(daemon: Daemon, route: str, times: int) -> set[str]:
    """Asks on connections of their own; which shards answered."""
    shards: set[str] = set()
    for _ in range(times):
        async with (
            aiohttp.ClientSession() as session,
            session.post(daemon.address + "/v1/chat/completions", json=chat("one two", model=route)) as response,
        ):
            assert response.status == 200, await response.text()
            shards.add(response.headers["X-Headgate-Shard"])
    return shards


async def test_a_shard_gets_ready_and_counts_right_while_the_configuration_changes_all_the_time(tmp_path):
    """Routes and workers come and go while it starts: their counters must lie where those of the others do."""
    async with serving(configured(tmp_path), shards=2) as daemon, admin(tmp_path) as operator:
        pids = await daemon.pids()
        changes = 0

        async def change_on(stop: asyncio.Event) -> None:
            nonlocal changes
            while not stop.is_set():
                number = changes
                worker = f"w{number}"
                assert await put(operator, f"/workers/{worker}", {"kind": "echo", "tokens": 2}) == 200
                assert await put(operator, f"/routes/r{number}", {"worker": worker}) == 200
                if number % 3 == 1:  # these go again, and leave their cells behind
                    async with operator.delete(f"http://x/routes/r{number}") as response:
                        assert response.status == 200
                changes += 1
                await asyncio.sleep(0.05)

        stop = asyncio.Event()
        changing = asyncio.create_task(change_on(stop))
        await asyncio.sleep(0.3)
        os.kill(pids["shard 1"], signal.SIGKILL)
        await until(lambda: logged(daemon, "process_died"))
        before = changes
        await until(lambda: all_ready(daemon))
        assert changes - before >= 2  # it was more than one change behind
        await asyncio.sleep(0.5)
        stop.set()
        await changing
        assert len(daemon.logged("process_died")) == 1
        assert not daemon.logged("process_killed")
        routes = {f"r{number}" for number in range(changes) if number % 3 != 1}
        shards: set[str] = set()
        for route in routes:
            shards |= await asked(daemon, route, 4)
        assert shards == {"0", "1"}
        await asyncio.sleep(0.25)  # two ticks, for the gauges
        metrics = await daemon.metrics()
        for route in routes:
            assert books(metrics, route) == (4, 0, {("completed", "done"): 4}), route
            labels = {"route": route, "worker": route.replace("r", "w"), "direction": "completion"}
            assert metrics["headgate_tokens_total", frozenset(labels.items())] == 4 * 2


async def test_a_level_of_operators_ends_when_the_file_is_read_again(tmp_path):
    async with serving(configured(tmp_path), shards=2) as daemon, admin(tmp_path) as operator:
        await set_level(tmp_path / "data" / "supervisor.sock", "error")
        assert await put(operator, "/routes/more", {"worker": "echo"}) == 200  # a change, and none of the level
        for _ in range(6):
            await ask(daemon.address)
        assert not daemon.logged("request")
        assert not daemon.logged("reload_applied")
        async with operator.delete("http://x/routes/more") as response:
            assert response.status == 200
        daemon.signal(signal.SIGHUP)  # to a file in which nothing is different

        async def all_log_again() -> bool:
            await ask(daemon.address)
            return {line["process"] for line in daemon.logged("request")} == {"shard 0", "shard 1"}

        await until(all_log_again)
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert daemon.logged("draining")  # the supervisor too


async def running(folder: Path) -> bool:
    return (folder / "data" / "supervisor.sock").exists()


async def test_a_change_while_the_daemon_starts_is_not_lost(tmp_path):
    path = configured(tmp_path, server="reload_on_change = true")
    async with started(path, command=TROUBLED, TROUBLE="waits 0") as daemon:
        await until(lambda: running(tmp_path))
        path.write_text(path.read_text() + ROUTE.format(name="late", worker="echo"))
        await until(lambda: logged(daemon, "reload_put_off"))
        (tmp_path / "data" / "go").touch()
        await daemon.announced()
        await until(lambda: logged(daemon, "reload_applied"))
        assert [line["changed"] for line in daemon.logged("reload_applied")] == [["routes[late]"]]
        await asked(daemon, "late", 1)


async def test_a_thousand_routes_at_once_have_room_and_are_counted(tmp_path):
    two = ECHO.format(worker="") + ROUTE.format(name="other", worker="echo")
    path = configured(tmp_path, two)
    async with serving(path, shards=2) as daemon, admin(tmp_path) as operator:
        clients = [asyncio.create_task(asked(daemon, "other", 40)) for _ in range(4)]
        workers = "".join(f'[[workers]]\nname = "w{n}"\nkind = "echo"\ntokens = 3\n' for n in range(200))
        routes = "".join(ROUTE.format(name=f"r{n}", worker=f"w{n % 200}") for n in range(998))
        path.write_text(path.read_text() + workers + routes)
        async with operator.post("http://x/reload") as response:
            assert response.status == 200, await response.text()
            assert len((await response.json())["changed"]) == 1198
        await asyncio.gather(*clients)
        for route in ("r0", "r499", "r997"):
            await asked(daemon, route, 3)
        await asyncio.sleep(0.25)
        metrics = await daemon.metrics()
        assert books(metrics, "other") == (160, 0, {("completed", "done"): 160})
        for number in (0, 499, 997):
            assert books(metrics, f"r{number}") == (3, 0, {("completed", "done"): 3})
            labels = {"route": f"r{number}", "worker": f"w{number % 200}", "direction": "completion"}
            assert metrics["headgate_tokens_total", frozenset(labels.items())] == 9
        assert books(metrics, "r1") == (0, 0, {})
        assert not daemon.logged("process_died")
        assert not daemon.logged("process_blocked")
        (line,) = daemon.logged("reload_applied")
        assert (len(line["changed"]), line["changed"][-1]) == (101, "and 1098 more")
