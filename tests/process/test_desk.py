import mmap
from pathlib import Path

import aiohttp
import pytest

from pipeline.core.ports import Readiness
from pipeline.knowledge.places import socket_address
from pipeline.observe.exposition import Exposition
from pipeline.observe.layout import MetricsLayout
from pipeline.process.counters import SharedMemory, State
from pipeline.process.desk import DaemonStatus, Desk, ProcessStatus
from pipeline.process.operations import ShardOperations

STATUS = DaemonStatus("1", "http://x", False, 1.5, [ProcessStatus("shard 0", "ready", 7, 0, 1.0)], {"offered": 3})


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=1, block=8)
    yield memory
    memory.close()


@pytest.fixture(params=["s", "x" * 120 + "/s"], ids=["short", "long"])
async def path(tmp_path, request):
    """The socket of a desk that is open."""
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    layout = MetricsLayout({"docs": "echo"})
    block = memoryview(mmap.mmap(-1, layout.size * 8)).cast("Q")
    desk = Desk(path, Exposition(layout, [block], list, "1"), lambda: STATUS)
    await desk.open()
    yield path
    await desk.close()


async def operations(memory: SharedMemory, path: Path, *, essential: bool = False) -> ShardOperations:
    return ShardOperations(memory, 0, path, essential=essential)


async def test_a_shard_gets_the_whole_daemons_metrics(memory, path):
    asker = await operations(memory, path)
    assert b'headgate_requests_offered_total{route="docs"} 0.0' in await asker.metrics()
    await asker.aclose()


async def test_a_supervisor_that_is_gone_is_a_connection_error(memory, tmp_path):
    asker = await operations(memory, tmp_path / "nobody")
    with pytest.raises(ConnectionError, match="the supervisor does not answer"):
        await asker.metrics()
    await asker.aclose()


async def test_tells_the_daemons_state(path):
    with socket_address(path) as address:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(address)) as session,
            session.get("http://x/status") as response,
        ):
            assert await response.json() == {
                "version": "1",
                "address": "http://x",
                "draining": False,
                "uptime_s": 1.5,
                "processes": [{"name": "shard 0", "state": "ready", "pid": 7, "restarts": 0, "uptime_s": 1.0}],
                "requests": {"offered": 3},
            }


async def test_takes_the_place_of_a_socket_that_was_left_behind(tmp_path):
    (tmp_path / "s").touch()
    layout = MetricsLayout({"docs": "echo"})
    block = memoryview(mmap.mmap(-1, layout.size * 8)).cast("Q")
    desk = Desk(tmp_path / "s", Exposition(layout, [block], list, "1"), lambda: STATUS)
    await desk.open()
    assert (tmp_path / "s").is_socket()
    await desk.close()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("shard", "knowledge", "essential", "draining", "expected"),
    [
        (State.READY, State.ABSENT, False, False, Readiness(True, {"shard 0": "ready"})),
        (State.STARTING, State.ABSENT, False, False, Readiness(False, {"shard 0": "starting"})),
        (State.READY, State.ABSENT, False, True, Readiness(False, {"shard 0": "draining"})),
        (State.READY, State.DOWN, False, False, Readiness(True, {"shard 0": "ready", "knowledge": "down"})),
        (State.READY, State.DOWN, True, False, Readiness(False, {"shard 0": "ready", "knowledge": "down"})),
        (State.READY, State.READY, True, False, Readiness(True, {"shard 0": "ready", "knowledge": "ready"})),
    ],
)
async def test_is_ready_when_some_route_can_be_answered(
    memory, tmp_path, shard, knowledge, essential, draining, expected
):
    memory.shards[0].state, memory.knowledge.state, memory.draining = shard, knowledge, draining
    asked = await operations(memory, tmp_path / "s", essential=essential)
    assert asked.readiness() == expected
    await asked.aclose()


async def test_a_shard_that_ends_alone_is_not_ready(memory, tmp_path):
    memory.shards[0].state = State.READY
    asked = await operations(memory, tmp_path / "s")
    asked.draining = True
    assert asked.readiness() == Readiness(False, {"shard 0": "draining"})
    await asked.aclose()
