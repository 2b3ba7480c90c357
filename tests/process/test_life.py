"""The daemon's life, in real processes and with real signals."""

import asyncio
import json
import os
import signal
import socket
import time

import aiohttp
import pytest

from tests.process.daemon import alive, chat, configured, frames, gone, serving, started

pytestmark = pytest.mark.slow

SLOW = "tokens = 40\ntokens_per_s = 40.0"  # a second an answer
ENDLESS = "tokens = 100000\ntokens_per_s = 50.0"


def books(metrics, route="echo"):
    """offered, open, and ended by (outcome, reason)."""
    offered = metrics["headgate_requests_offered_total", frozenset({("route", route)})]
    opened = metrics["headgate_requests_open", frozenset({("route", route)})]
    ended: dict[tuple[str, str], float] = {}
    for (name, labels), value in metrics.items():
        found = dict(labels)
        if name == "headgate_requests_total" and found["route"] == route and value:
            key = found["outcome"], found["reason"]
            ended[key] = ended.get(key, 0) + value
    return offered, opened, ended


class Clients:
    """Clients that ask again and again until told to stop, and keep count."""

    def __init__(self, address: str, number: int) -> None:
        self.answered = 0
        self.broken = 0
        self._address = address
        self._stop = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(number)]

    async def _run(self) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            while not self._stop:
                try:
                    async with session.post(self._address + "/v1/chat/completions", json=chat(stream=True)) as response:
                        found = await frames(response)
                    if found[-1:] == ["[DONE]"]:
                        self.answered += 1
                    else:
                        self.broken += 1
                except aiohttp.ClientError:
                    self.broken += 1

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


class TestService:
    async def test_counts_agree_with_what_clients_saw(self, tmp_path):
        async with serving(configured(tmp_path)) as daemon:
            async with aiohttp.ClientSession() as session:
                url = daemon.address + "/v1/chat/completions"
                for _ in range(5):
                    async with session.post(url, json=chat("one two three")) as response:
                        assert response.status == 200
                async with session.post(url, json=chat(stream=True)) as response:
                    assert (await frames(response))[-1] == "[DONE]"
                async with session.post(url, data=b"{") as response:
                    assert response.status == 400
                async with session.post(url, json=chat(model="nobody")) as response:
                    assert response.status == 404
            await asyncio.sleep(0.25)  # two ticks, for the gauges
            metrics = await daemon.metrics()
            assert books(metrics) == (6, 0, {("completed", "done"): 6})
            offered, opened, ended = books(metrics, "-")
            assert (offered, opened) == (2, 0)
            assert ended == {("rejected", "invalid"): 1, ("rejected", "unknown_model"): 1}
            tokens = frozenset({("direction", "completion"), ("route", "echo"), ("worker", "echo")})
            assert metrics["headgate_tokens_total", tokens] == 5 * 3 + 2
            for stage in ("rag", "assemble", "inference", "post", "stream"):
                label = frozenset({("stage", stage)})
                assert metrics["headgate_stage_seconds_count", label] == 6
                assert metrics["headgate_queue_taken_total", label] == 6
                assert metrics["headgate_queue_depth", label] == 0
            assert metrics["headgate_queue_capacity", frozenset({("stage", "stream")})] == 256
            assert metrics["headgate_event_loop_lag_seconds_count", frozenset({("shard", "0")})] > 0
            assert metrics["headgate_process_resident_memory_bytes", frozenset({("process", "shard 0")})] > 1e7
            assert [line["outcome"] for line in daemon.logged("request")] == ["completed"] * 6 + ["rejected"] * 2
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
            (stopped,) = daemon.logged("stopped")
            assert (stopped["offered"], stopped["completed"], stopped["rejected"]) == (8, 6, 2)

    async def test_the_supervisors_socket_is_for_this_user_only(self, tmp_path):
        async with serving(configured(tmp_path)) as daemon:
            assert (tmp_path / "data" / "supervisor.sock").stat().st_mode & 0o777 == 0o600
            status = await daemon.status()
            assert [process["state"] for process in status["processes"]] == ["ready", "ready"]
            assert status["address"] == daemon.address
        assert not (tmp_path / "data" / "supervisor.sock").exists()


class TestCrash:
    async def test_of_a_shard_under_load_costs_its_open_requests_and_nothing_else(self, tmp_path):
        async with serving(configured(tmp_path, worker="tokens = 10\ntokens_per_s = 50.0")) as daemon:
            clients = Clients(daemon.address, 20)
            await asyncio.sleep(0.5)
            back = []
            for _ in range(3):  # the machine may be busy: one good try will do
                shard = (await daemon.pids())["shard 0"]
                os.kill(shard, signal.SIGKILL)
                assert await gone([shard], 1)
                back.append(await daemon.until_ready())
                if back[-1] < 2:
                    break
            assert min(back) < 2
            await asyncio.sleep(0.5)
            await clients.stop()
            metrics = await daemon.metrics()
            offered, opened, ended = books(metrics)
            lost = ended.pop(("failed", "shard_lost"))
            assert opened == 0
            assert offered == lost + sum(ended.values())
            assert set(ended) == {("completed", "done")}
            assert 1 <= lost <= clients.broken
            assert ended["completed", "done"] >= clients.answered > 20
            assert metrics["headgate_shard_restarts_total", frozenset({("shard", "0")})] == len(back)
            deaths = daemon.logged("process_died")
            assert [line["status"] for line in deaths] == ["killed by SIGKILL"] * len(back)
            assert sum(line["lost"] for line in deaths) >= lost

    async def test_of_the_supervisor_ends_its_children_and_frees_the_data_folder(self, tmp_path):
        path = configured(tmp_path, worker=ENDLESS)
        async with (
            serving(path) as daemon,
            aiohttp.ClientSession() as session,
            session.post(daemon.address + "/v1/chat/completions", json=chat(stream=True)) as response,
        ):
            await response.content.readany()
            pids = await daemon.pids()
            daemon.signal(signal.SIGKILL)
            assert await gone(list(pids.values()), 2)
            *_, last = await frames(response)
            assert json.loads(last)["error"]["code"] == "cancelled"
        async with serving(path) as daemon:
            assert await daemon.status()

    async def test_of_the_supervisor_does_not_wait_for_its_children_to_start_again(self, tmp_path):
        """The new one waits until those of the old one have left the data folder."""
        path = configured(tmp_path, worker=ENDLESS)
        async with (
            serving(path) as daemon,
            aiohttp.ClientSession() as session,
            session.post(daemon.address + "/v1/chat/completions", json=chat(stream=True)) as response,
        ):
            await response.content.readany()
            daemon.signal(signal.SIGKILL)
            async with serving(path) as successor:
                assert (await successor.pids())["supervisor"] != daemon.process.pid


class TestKnowledge:
    DOCUMENTS = """
[[workers]]
name = "quotes"
kind = "extractive"

[[workers]]
name = "echo"
kind = "echo"

[[collections]]
name = "docs"
embedder = "lexical"

[[routes]]
name = "docs"
worker = "quotes"
collection = "docs"
{more}
"""

    async def test_a_killed_one_is_started_again(self, tmp_path):
        text = self.DOCUMENTS.format(more="")
        async with serving(configured(tmp_path, text)) as daemon, aiohttp.ClientSession() as session:
            pid = (await daemon.pids())["knowledge"]
            url = daemon.address + "/v1/chat/completions"
            async with session.post(url, json=chat("What is a shard?", model="docs")) as response:
                assert response.status == 200
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                while (await daemon.pids())["knowledge"] in (0, pid):
                    await asyncio.sleep(0.01)
            await daemon.until_ready()
            async with session.post(url, json=chat("What is a shard?", model="docs")) as response:
                assert response.status == 200
            metrics = await daemon.metrics()
            assert metrics["headgate_knowledge_restarts_total", frozenset()] == 1
            assert metrics["headgate_shard_restarts_total", frozenset({("shard", "0")})] == 0
            assert metrics["headgate_process_ready", frozenset({("process", "knowledge")})] == 1
            pids = await daemon.pids()
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
            assert not any(map(alive, pids.values()))

    async def test_routes_that_do_without_it_go_on(self, tmp_path):
        more = '[[routes]]\nname = "echo"\nworker = "echo"'
        async with serving(configured(tmp_path, self.DOCUMENTS.format(more=more))) as daemon:
            pid = (await daemon.pids())["knowledge"]
            os.kill(pid, signal.SIGSTOP)  # neither dead nor of any use
            try:
                assert await ask(daemon.address) == "0"
                assert await daemon.until_ready(1)
            finally:
                os.kill(pid, signal.SIGKILL)


class TestSeveralShards:
    async def test_share_port_and_counters_and_die_alone(self, tmp_path):
        async with serving(configured(tmp_path), shards=2) as daemon:
            pids = await daemon.pids()
            assert sorted(pids) == ["shard 0", "shard 1", "supervisor"]
            seen = set()
            asked = 0
            async with asyncio.timeout(20):
                while len(seen) < 2:
                    seen.add(await ask(daemon.address))
                    asked += 1
            os.kill(pids["shard 1"], signal.SIGKILL)
            assert await gone([pids["shard 1"]], 1)
            for _ in range(5):
                assert await ask(daemon.address) in seen
                asked += 1
            await daemon.until_ready()
            metrics = await daemon.metrics()
            assert books(metrics) == (asked, 0, {("completed", "done"): asked})
            assert metrics["headgate_queue_capacity", frozenset({("stage", "rag")})] >= 512
            async with asyncio.timeout(10):
                while (await daemon.pids())["shard 1"] in {0, pids["shard 1"]} or any(
                    process["state"] != "ready" for process in (await daemon.status())["processes"]
                ):
                    await asyncio.sleep(0.05)
            metrics = await daemon.metrics()
            assert metrics["headgate_shard_restarts_total", frozenset({("shard", "0")})] == 0
            assert metrics["headgate_shard_restarts_total", frozenset({("shard", "1")})] == 1


async def ask(address: str) -> str:
    """One request on a connection of its own; which shard answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(address + "/v1/chat/completions", json=chat()) as response,
    ):
        assert response.status == 200
        return response.headers["X-Headgate-Shard"]


class TestDrain:
    async def test_finishes_what_is_in_flight(self, tmp_path):
        async with serving(configured(tmp_path, worker=SLOW)) as daemon, aiohttp.ClientSession() as session:
            url = daemon.address + "/v1/chat/completions"
            streams = [await session.post(url, json=chat(stream=True)) for _ in range(5)]
            firsts = [await response.content.readany() for response in streams]
            plain = asyncio.create_task(session.post(url, json=chat()))
            await asyncio.sleep(0.1)
            daemon.signal(signal.SIGTERM)
            answers = [first + await response.read() for first, response in zip(firsts, streams, strict=True)]
            for answer in answers:
                assert answer.count(b'"content"') >= 40
                assert answer.rstrip().endswith(b"data: [DONE]")
            response = await plain
            assert response.status == 200
            assert len((await response.json())["choices"][0]["message"]["content"].split()) == 40
            assert await daemon.ended() == 0
            (stopped,) = daemon.logged("stopped")
            assert (stopped["offered"], stopped["completed"]) == (6, 6)

    async def test_accepts_no_more(self, tmp_path):
        async with serving(configured(tmp_path, worker=SLOW)) as daemon, aiohttp.ClientSession() as session:
            url = daemon.address + "/v1/chat/completions"
            async with session.post(url, json=chat(stream=True)) as response:
                await response.content.readany()
                daemon.signal(signal.SIGINT)
                while not daemon.logged("draining"):
                    await asyncio.sleep(0.01)
                assert (await daemon.status())["draining"]
                refused = False
                while not refused:
                    try:
                        async with (
                            asyncio.timeout(0.4),  # refused, not left waiting
                            aiohttp.ClientSession() as other,
                            other.get(daemon.address + "/readyz") as answer,
                        ):
                            assert answer.status == 503
                    except aiohttp.ClientConnectionError:
                        refused = True
                assert refused
                assert b"[DONE]" in await response.read()
            assert await daemon.ended() == 0

    async def test_ends_the_rest_with_an_answer_when_its_time_is_up(self, tmp_path):
        path = configured(tmp_path, worker=ENDLESS, server="drain_timeout_ms = 300")
        async with serving(path) as daemon, aiohttp.ClientSession() as session:
            async with session.post(daemon.address + "/v1/chat/completions", json=chat(stream=True)) as response:
                await response.content.readany()
                daemon.signal(signal.SIGTERM)
                *_, last = await frames(response)
                assert json.loads(last)["error"]["code"] == "cancelled"
            assert await daemon.ended() == 0
            (request,) = daemon.logged("request")
            assert (request["outcome"], request["reason"]) == ("cancelled", "shutdown")

    async def test_a_second_signal_forces(self, tmp_path):
        async with serving(configured(tmp_path, worker=ENDLESS)) as daemon, aiohttp.ClientSession() as session:
            async with session.post(daemon.address + "/v1/chat/completions", json=chat(stream=True)) as response:
                await response.content.readany()
                pids = await daemon.pids()
                daemon.signal(signal.SIGTERM)
                while not daemon.logged("draining"):
                    await asyncio.sleep(0.01)
                daemon.signal(signal.SIGTERM)
                assert await daemon.ended(2) == 1
                assert not any(map(alive, pids.values()))
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            (stopped,) = daemon.logged("stopped")
            assert (stopped["offered"], stopped["failed"]) == (1, 1)

    async def test_while_it_starts_is_no_different(self, tmp_path):
        async with started(configured(tmp_path)) as daemon:
            while not (tmp_path / "data" / "supervisor.sock").exists():
                await asyncio.sleep(0.01)
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
            assert not daemon.logged("serving")


class TestStart:
    async def refused(self, path) -> str:
        """The one line that says why it does not start."""
        async with started(path) as daemon:
            assert await daemon.ended() == 1
            (line,) = daemon.stderr.splitlines()
            return line

    async def test_a_port_in_use(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            line = await self.refused(configured(tmp_path, server=f"port = {port}"))
        assert line.startswith(f"Error: Cannot listen on 127.0.0.1:{port}: port {port} is in use")
        assert "server.port" in line

    async def test_a_data_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "data").write_text("a file")
        line = await self.refused(configured(tmp_path))
        assert line.startswith(f"Error: Cannot write to the data folder {tmp_path / 'data'}: ")
        assert "server.data_dir" in line

    async def test_a_data_folder_in_use(self, tmp_path):
        path = configured(tmp_path)
        async with serving(path) as first:
            async with started(path) as second:
                assert await second.ended() == 1
            assert f"Another Headgate (pid {first.process.pid}) is using the data folder" in first.stderr

    async def test_what_only_shows_when_things_are_built(self, tmp_path):
        text = """
[[workers]]
name = "remote"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key = "env:HEADGATE_TEST_NOBODY_SETS_THIS"

[[routes]]
name = "remote"
worker = "remote"
"""
        async with started(configured(tmp_path, text)) as daemon:
            began = time.monotonic()
            assert await daemon.ended() == 2
            assert time.monotonic() - began < 5
            assert "workers[0].api_key" in daemon.stderr
            assert "HEADGATE_TEST_NOBODY_SETS_THIS" in daemon.stderr
            assert "Traceback" not in daemon.stderr
