"""The command `python -m benchmarks.backend`, and whether the backend does what the oracle plans."""

import asyncio
import signal
import socket
import statistics
import subprocess
import time
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from benchmarks.oracle import Arrival, plan
from benchmarks.service import Service, duration
from tests.benchmarks.backends import COMMAND, LONG, RawClient, Simulated, backend_process, simulated
from tests.process.daemon import ROOT

pytestmark = pytest.mark.slow


# The process.


async def test_replicas_have_slots_and_counts_of_their_own():
    with backend_process("--replicas", "2", "--slots", "1", "--first-token-ms", "0") as process:
        assert len(set(process.urls)) == 2
        async with simulated(process.urls[0]) as one, simulated(process.urls[1]) as other:
            await one.set(**LONG)
            held = await RawClient.ask(one.port, "hold")
            await one.busy(1)
            for _ in range(3):
                assert (await other.ask()).status == 200
            states = [await one.get(), await other.get()]
            await held.drop()
    assert [state["replica"] for state in states] == [0, 1]
    assert all(state["replicas"] == process.urls for state in states)
    assert [state["counts"]["arrivals"] for state in states] == [1, 3]
    assert [state["service"]["first_token_ms"] for state in states] == [60_000, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_within_a_second(number: signal.Signals):
    with backend_process("--slots", "1", "--first-token-ms", "60000", "--cancel", "false") as process:
        async with simulated(process.urls[0]) as backend:
            clients = [await RawClient.ask(backend.port, "x", stream=True) for _ in range(3)]
            await backend.busy(1, 2)
            began = time.monotonic()
            assert await asyncio.to_thread(process.end, number) == 0
            assert time.monotonic() - began < 1.0
            for client in clients:
                await client.drop()


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, cwd=ROOT, timeout=20, check=False)


def test_every_bad_option_is_named(tmp_path: Path):
    file = tmp_path / "service.toml"
    file.write_text("slotz = 1\n")
    ended = run("--port", "99999", "--slots", "many", "--spread", "99", "--service", str(file))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert all(name in ended.stderr for name in ("--port", "--slots", "--spread", f"{file}:1", "4 problems"))


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--port", str(port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"Error: cannot listen on 127.0.0.1 port {port}: the port is in use\n"


async def test_options_win_over_the_file(tmp_path: Path):
    file = tmp_path / "service.toml"
    file.write_text("slots = 3\nqueue = 5\ncancel = false\n")
    with backend_process("--service", str(file), "--slots", "4", "--queue", "none") as process:
        async with simulated(process.urls[0]) as backend:
            service = (await backend.get())["service"]
    assert (service["slots"], service["queue"], service["cancel"]) == (4, None, False)


def test_what_is_printed_is_one_line_of_json():
    with backend_process() as process:
        process.end()
        assert process.popen.stdout is not None
        assert process.popen.stdout.read() == ""
        assert process.urls[0].startswith("http://127.0.0.1:")


# The oracle knows what the backend will do.


def bursts(count: int) -> list[Arrival]:
    """Six at a time, 60 a second in the mean."""
    random, at, found = Random(3), 0.0, []
    for number in range(count):
        at += 0.0 if number % 6 else random.expovariate(10.0)
        found.append(Arrival(at, number, 1, None, None))
    return found


async def play(backend: Simulated, arrivals: list[Arrival]) -> list[float]:
    """When each had its answer, in seconds since they began to arrive."""
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.05

    async def ask(arrival: Arrival) -> float:
        await asyncio.sleep(max(began + arrival.at - loop.time(), 0.0))
        assert (await backend.ask(f"#0000000f.{arrival.number}")).status == 200
        return loop.time() - began

    return await asyncio.gather(*(ask(arrival) for arrival in arrivals))


def planned(arrivals: list[Arrival], service: Service) -> list[tuple[float, float]]:
    """Start and end of each."""
    plans = plan(arrivals, service, wait_budget=60.0)
    return [(one.start, one.end) for one in plans if one.start is not None and one.end is not None]


async def test_the_backend_does_what_the_oracle_plans():
    service = Service(slots=4, first_token_ms=50, distribution="lognormal", spread=0.8)
    options = ("--slots", "4", "--first-token-ms", "50", "--distribution", "lognormal", "--spread", "0.8")
    intended = bursts(60)
    with backend_process(*options) as process:
        async with simulated(process.urls[0]) as backend:
            ended = await play(backend, intended)
            rows = sorted(await backend.rows("0000000f"), key=lambda row: row[1])
    intention = planned(intended, service)
    assert max(start - arrival.at for arrival, (start, _) in zip(intended, intention, strict=True)) > 0.1  # some wait
    late = [end - plan_end for end, (_, plan_end) in zip(ended, intention, strict=True)]
    assert -0.02 < statistics.median(late) < 0.1  # this process, the sockets, the other one

    # From here on as the requests arrived, which is not quite as they were sent.
    first = rows[0][1]
    arrived = [Arrival(row[1] - first, row[0], 1, None, None) for row in rows]
    exact = planned(arrived, service)
    for row, (start, end) in zip(rows, exact, strict=True):
        assert row[4] == pytest.approx(duration(service, row[0], 1, None), abs=2e-3)
        assert row[2] - first == pytest.approx(start, abs=0.02)
        assert row[3] - first == pytest.approx(end, abs=0.02)
    for (row, (_, end)), (other, (_, other_end)) in combinations(zip(rows, exact, strict=True), 2):
        if abs(end - other_end) > 0.04:
            assert (row[3] < other[3]) == (end < other_end)
