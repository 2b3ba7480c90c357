import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from pipeline.observe.layout import Counted
from pipeline.process.child import Inheritance, pin
from pipeline.process.counters import SharedMemory, State
from pipeline.process.handout import handout
from pipeline.process.keeper import Keeper, Limits
from pipeline.process.link import Retire, SetLevel
from pipeline.process.seats import OneSeat, ShardSeats
from tests.flows import config
from tests.process.daemon import ROOT, alive, gone
from tests.process.test_keeper import House, ready, until

pytestmark = pytest.mark.slow

COUNTED = Counted({"echo": ["echo"]}, {"echo": ["0"]})
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
CHILD = """
import os, time
from pipeline.process.child import _die_with
_die_with({parent})
print("listening to nothing", flush=True)
time.sleep(60)
"""


async def test_a_child_that_does_not_listen_yet_dies_with_the_supervisor():
    script = CHILD.format(parent="os.getppid()")
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    try:
        assert await gone([child], 2)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_child_whose_supervisor_died_before_it_could_ask_ends():
    done = subprocess.run([sys.executable, "-c", CHILD.format(parent="1 << 30")], cwd=ROOT, check=False, timeout=20)
    assert done.returncode == 1


@pytest.fixture
async def memory():
    memory = SharedMemory.create(shards=1, block=8)
    yield memory
    memory.close()


@pytest.fixture
async def keep(memory, monkeypatch):
    """Keeps a child whose main function is `tests.process.talkative`'s, as a shard or as the knowledge process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    keepers: list[Keeper] = []

    @contextmanager
    def kept(*, shard: int = 0, **server: object) -> Iterator[tuple[Keeper, House]]:
        name = "knowledge" if shard < 0 else f"shard {shard}"
        seats = OneSeat(memory.knowledge) if shard < 0 else ShardSeats(memory)
        with handout(config(server=server, logging={"level": "warning"}), [COUNTED]) as file:
            born = Inheritance(name, shard, os.getpid(), -1, memory.descriptor, file.descriptor, -1, -1, edition=4)
            house = House()
            keepers.append(Keeper("tests.process.talkative", lambda: born, seats, Limits(10.0, 10), house))
            yield keepers[-1], house

    yield kept
    for keeper in keepers:
        await keeper.kill()


def events(capfd) -> list[dict[str, Any]]:
    """What the child has logged."""
    return [msgspec.json.decode(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


async def test_shows_that_its_loop_turns(keep, memory):
    with keep() as (keeper, _):
        process = await ready(keeper)
        first = process.slot.pulse
        await until(lambda: process.slot.pulse > first > 0, 2)
        assert await keeper.stop(5)


async def test_the_knowledge_process_does_so_too(keep, memory):
    with keep(shard=-1) as (keeper, _):
        process = await ready(keeper)
        assert (process.seat, process.shard) == (-1, None)
        first = memory.knowledge.pulse
        await until(lambda: memory.knowledge.pulse > first > 0, 2)


async def test_knows_the_layout_and_its_seat(keep, capfd):
    with keep() as (keeper, _):
        await ready(keeper)
        await keeper.stop(5)
    born = next(line for line in events(capfd) if line["event"] == "born")
    assert (born["seat"], born["edition"], born["layout"]) == (0, 4, [msgspec.to_builtins(COUNTED)])


async def test_signals_that_are_meant_for_the_supervisor_do_not_end_it(keep):
    with keep() as (keeper, _):
        process = await ready(keeper)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            process.signal(number)
        first = process.slot.pulse
        await until(lambda: process.slot.pulse > first, 2)
        assert alive(process.pid)
        assert keeper.state is State.READY


async def test_shows_its_stacks_when_it_is_asked(keep, capfd):
    with keep() as (keeper, _):
        process = await ready(keeper)
        process.signal(signal.SIGUSR1)
        first = process.slot.pulse
        await until(lambda: process.slot.pulse > first, 2)
        assert 'child.py", line' in capfd.readouterr().err


async def test_sets_its_level_and_retires_when_it_is_told(keep, capfd):
    with keep() as (keeper, _):
        process = await ready(keeper)
        process.send(SetLevel("info"))
        process.send(Retire())
        assert await gone([process.pid], 5)
        assert [line["event"] for line in events(capfd)] == ["born", "retiring"]


async def test_is_pinned_to_its_core(keep):
    with keep(pin_cores=True) as (keeper, _):
        process = await ready(keeper)
        assert os.sched_getaffinity(process.pid) == {min(os.sched_getaffinity(0))}
    with keep() as (keeper, _):
        process = await ready(keeper)
        assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0)


def test_shards_share_the_cores_that_the_daemon_may_use():
    mine = os.sched_getaffinity(0)
    cores = sorted(mine)
    try:
        for shard in range(2 * len(cores) + 1):
            os.sched_setaffinity(0, mine)
            pin(shard)
            assert os.sched_getaffinity(0) == {cores[shard % len(cores)]}
    finally:
        os.sched_setaffinity(0, mine)
