"""A real daemon in front of backends that fail, die or come to be: what its clients get."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from benchmarks.load.answer import Answer, End
from benchmarks.load.wire import Wire
from benchmarks.pools.backends import simulated
from benchmarks.service import Service
from tests.process.daemon import Daemon, chat, configured, serving
from tests.servers import Exchange, Script, ScriptedBackend, chunk, completion, says, streamed, usage_chunk, whole

pytestmark = pytest.mark.slow

WORKER = """
[[workers]]
name = "{name}"
kind = "openai"
replicas = {urls}
model = "m"
health_interval_ms = 0
slow_start_ms = 0
retry_base_ms = 1
{more}
"""
DOWN = says(whole({"error": {"message": "out of memory"}}, 500))


def worker(name: str, *backends: ScriptedBackend, more: str = "") -> str:
    return WORKER.format(name=name, urls=json.dumps([backend.base_url for backend in backends]), more=more)


def route(name: str, worker: str, more: str = "") -> str:
    return f'[[routes]]\nname = "{name}"\nworker = "{worker}"\n{more}\n'


class Model:
    """Answers with `text`, and calls in turn as the scripts in `first` say; lists its models."""

    def __init__(self, text: str, *first: Script) -> None:
        self.text = text
        self.first = list(first)
        self.usual: Script | None = None  # instead
        self.calls = 0

    async def __call__(self, exchange: Exchange) -> None:
        if not exchange.path.endswith("/chat/completions"):
            await exchange.send(whole({"object": "list", "data": [{"id": "m"}]}))
            return
        self.calls += 1
        script = self.first.pop(0) if self.first else self.usual
        if script is not None:
            await script(exchange)
        elif exchange.json["stream"]:
            await exchange.send(streamed(chunk(self.text), chunk(finish="stop"), usage_chunk()))
        else:
            await exchange.send(whole(completion(self.text)))


class Told(NamedTuple):
    status: int
    text: str
    headers: Any
    seconds: float


async def ask(daemon: Daemon, model: str, *, stream: bool = False, **headers: str) -> Told:
    """Over a connection of its own."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with (
        aiohttp.ClientSession(daemon.address) as session,
        session.post("/v1/chat/completions", json=chat(stream=stream, model=model), headers=headers) as response,
    ):
        return Told(response.status, await response.text(), response.headers, loop.time() - began)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_replica_killed_under_load_costs_no_request_whose_first_delta_was_not_out(tmp_path: Path):
    service = Service(slots=256, first_token_ms=80, tokens_per_second=100, tokens=6, distribution="lognormal")
    with simulated(service, replicas=1, processes=2) as replicas:
        async with serving(configured(tmp_path, replicas.config(concurrency=256, health_interval_ms=0))) as daemon:
            wire = Wire(f"{daemon.address}/v1")
            body = json.dumps(chat(stream=True, model="pool")).encode()
            done: list[Answer] = []
            under_way: list[float] = []

            async def client() -> None:
                while len(done) < 400:
                    answer = await wire.ask(body, stream=True, deadline=None, leave=None, leave_at=None)
                    done.append(answer)
                    if len(done) == 150:
                        async with aiohttp.ClientSession() as session, session.get(f"{replicas.urls[0]}/sim") as sim:
                            under_way.append((await sim.json())["in_flight"])
                        replicas.processes[0].kill()

            await asyncio.gather(*(client() for _ in range(32)))
            await wire.aclose()
        assert under_way[0] > 0
        failed = [answer for answer in done if answer.end is not End.WHOLE]
        assert [answer for answer in failed if not answer.tokens] == []
        assert len(failed) <= under_way[0]


@pytest.mark.alone
async def test_a_replica_that_is_stopped_under_load_is_done_without_until_it_goes_on(tmp_path: Path):
    service = Service(slots=256, first_token_ms=80, tokens_per_second=100, tokens=6, distribution="lognormal")
    with simulated(service, replicas=1, processes=2) as replicas:
        text = replicas.config(health_interval_ms=1000, slow_start_ms=500, affinity=False)
        async with serving(configured(tmp_path, text)) as daemon:
            wire, loop = Wire(f"{daemon.address}/v1"), asyncio.get_running_loop()
            body = json.dumps(chat(stream=True, model="pool")).encode()
            done: list[tuple[float, Answer]] = []
            over = asyncio.Event()

            async def client() -> None:
                while not over.is_set():
                    answer = await wire.ask(body, stream=True, deadline=None, leave=None, leave_at=None)
                    done.append((loop.time(), answer))
                    if answer.end is End.REFUSED:
                        await asyncio.sleep(0.05)

            async def in_flight(index: int) -> int:
                async with aiohttp.ClientSession() as session, session.get(f"{replicas.urls[index]}/sim") as sim:
                    return int((await sim.json())["in_flight"])

            clients = [asyncio.create_task(client()) for _ in range(16)]
            await until(lambda: len(done) >= 60)
            stopped = replicas.processes[1]
            stopped.send_signal(signal.SIGSTOP)
            try:
                at = loop.time()
                await until(lambda: daemon.logged("replica_down"))
                served = len([1 for _, answer in done if answer.end is End.WHOLE])
                await until(lambda: len([1 for _, answer in done if answer.end is End.WHOLE]) >= served + 50)
            finally:
                stopped.send_signal(signal.SIGCONT)
            await until(lambda: daemon.logged("replica_up"))
            async with asyncio.timeout(10):
                while not await in_flight(1):
                    await asyncio.sleep(0.05)
            over.set()
            await asyncio.gather(*clients)
            await wire.aclose()
            failed = [(when - at, answer) for when, answer in done if answer.end is not End.WHOLE]
            refused = [when for when, answer in failed if answer.end is End.REFUSED]
            # Only answers that had begun on the one that was stopped may have been broken off.
            assert [answer for _, answer in failed if not answer.tokens and answer.end is not End.REFUSED] == []
            late = [when for when in refused if when > 8.0]  # 1 to 2 s, on a machine with nothing else to do
            assert len(late) <= len(done) // 20


async def test_a_worker_that_is_down_its_fallback_its_static_answer_and_its_circuit(tmp_path: Path):
    model = Model("well again")
    model.usual = DOWN
    async with ScriptedBackend(model) as main, ScriptedBackend(Model("from the spare")) as spare:
        breaker = "breaker_failures = 4\nbreaker_open_ms = 1500\nretries = 1"
        static = 'static_answer = "Please try later."'
        text = (
            worker("main", main, more=breaker)
            + worker("spare", spare)
            + route("backed", "main", 'fallback = ["spare"]')
            + route("static", "main", static)
            + route("alone", "main")
        )
        async with serving(configured(tmp_path, text)) as daemon:
            told = await ask(daemon, "backed")
            assert (told.status, "from the spare" in told.text) == (200, True)
            assert model.calls == 2
            told = await ask(daemon, "static", stream=True)
            assert told.headers["X-Headgate-Degraded"] == "static_answer"
            frames = [line.removeprefix("data: ") for line in told.text.splitlines() if line]
            choices = [json.loads(frame)["choices"][0] for frame in frames[:-1]]
            assert "".join(choice["delta"].get("content", "") for choice in choices) == "Please try later."
            assert (choices[-1]["finish_reason"], frames[-1]) == ("stop", "[DONE]")
            # By now the circuit is open: nothing calls the backend any more.
            assert model.calls == 4
            told = await ask(daemon, "static")
            assert json.loads(told.text)["choices"][0]["message"]["content"] == "Please try later."
            assert told.headers["X-Headgate-Degraded"] == "static_answer"
            for _ in range(3):
                told = await ask(daemon, "alone")
                assert (told.status, told.headers["X-Headgate-Shed-Reason"]) == (503, "circuit_open")
                assert 0 < int(told.headers["Retry-After"]) <= 2
                assert told.seconds < 0.5
            assert (await ask(daemon, "backed", stream=True)).status == 200
            assert model.calls == 4
            model.usual = None
            async with asyncio.timeout(10):
                while (told := await ask(daemon, "alone")).status != 200:
                    await asyncio.sleep(float(told.headers["retry-after-ms"]) / 1000)
            assert "well again" in told.text
            assert model.calls == 5  # who comes back when told to makes the probe, and nobody else
            await until(lambda: len(daemon.logged("request")) >= 8)
            first = daemon.logged("request")[0]
            assert (first["worker"], first["retries"], first["outcome"]) == ("spare", 1, "completed")
            assert all("retries" not in line for line in daemon.logged("request")[2:])


async def test_what_a_backend_asks_for_is_waited_for_where_that_is_not_too_long(tmp_path: Path):
    limited = whole({"error": {"message": "slow down"}}, 429, Retry_After="1")
    model = Model("at last", says(limited))
    async with ScriptedBackend(model) as backend:
        text = worker("patient", backend) + worker("hasty", backend, more="retry_max_ms = 900")
        async with serving(configured(tmp_path, text + route("wait", "patient") + route("go", "hasty"))) as daemon:
            told = await ask(daemon, "wait")
            assert (told.status, told.seconds >= 1.0) == (200, True)
            model.first.append(says(limited))
            told = await ask(daemon, "go")
            assert (told.status, told.headers["Retry-After"], told.seconds < 0.9) == (502, "1", True)


async def test_sessions_stay_with_their_replica_over_two_shards_and_through_a_reload(tmp_path: Path):
    async with (
        ScriptedBackend(Model("one")) as one,
        ScriptedBackend(Model("two")) as two,
        ScriptedBackend(Model("three")) as three,
    ):
        server = "shards = 2\n"
        path = configured(tmp_path, worker("pool", one, two) + route("echo", "pool"), server=server)
        sessions = [f"session-{number}" for number in range(40)]

        async def preferred(daemon: Daemon) -> tuple[dict[str, str], set[str]]:
            found, shards = {}, set()
            for session in sessions:
                told = await ask(daemon, "echo", **{"X-Session-Id": session})
                assert told.status == 200, told.text
                found[session] = json.loads(told.text)["choices"][0]["message"]["content"]
                shards.add(told.headers["X-Headgate-Shard"])
            return found, shards

        async with serving(path) as daemon:
            first, shards = await preferred(daemon)
            assert shards == {"0", "1"}
            assert set(first.values()) == {"one", "two"}
            assert (await preferred(daemon))[0] == first
            configured(tmp_path, worker("pool", one, two, three) + route("echo", "pool"), server=server)
            daemon.signal(signal.SIGHUP)
            await until(lambda: daemon.logged("reload_applied"))
            after, _ = await preferred(daemon)
            moved = {session for session in sessions if after[session] != first[session]}
            assert {after[session] for session in moved} == {"three"}  # and no other has been moved
            assert 3 <= len(moved) <= 26
