"""The parts of the figures, before real daemons of two shards."""

import asyncio
import json
import subprocess
import sys

import pytest

from benchmarks.paired import body
from benchmarks.servers import headgate
from benchmarks.shards.changes import replace_file
from benchmarks.shards.clients import Crowd
from benchmarks.shards.daemon import ECHO, Desk, NotReached, accepted, in_force, models
from pipeline.policy.affinity import owner
from tests.process.daemon import ROOT

pytestmark = pytest.mark.slow
ROUTES = {"json", "tick", "paced"}


@pytest.fixture(scope="module")
def server():
    with headgate(ECHO, shards=2) as found:
        yield found


async def test_relayed_requests_are_told_from_the_others(server):
    async with Desk(server) as desk:
        shards = await desk.shards()
    assert sorted(shards) == [0, 1]
    crowd = Crowd(server.port, 8, body("json", stream=False))
    await crowd.meet(shards)
    acceptors = accepted(server.port, shards)
    assert len(acceptors) == 8
    await crowd.ask_at(400.0, 0.5)
    done = crowd.books
    await crowd.aclose()
    assert len(done) > 50
    assert all(each.served for each in done)
    assert all(each.answer.shard == str(owner(each.session, range(2))) for each in done)
    assert all(each.acceptor in (0, 1) for each in done)
    assert {each.relayed for each in done} == {True, False}
    assert crowd.counts.offered == crowd.counts.completed == len(done) + 8


async def test_a_closed_connection_fails_its_request(server):
    """Nothing is sent twice, or a lost request would look served."""
    crowd = Crowd(server.port, 4, body("paced", stream=False))
    async with Desk(server) as desk:
        await crowd.meet(await desk.shards())
    load = asyncio.ensure_future(crowd.all_ask())
    await asyncio.sleep(0.05)
    for line in crowd._lines:
        for connection in list(line._wire._pool.open):
            connection.connection_lost(None)
    crowd.stop()
    await load
    await crowd.aclose()
    assert [each.answer.end for each in crowd.books if not each.served] == ["broken"] * 4


async def test_routes_are_asked_of_all_shards(server):
    assert await models(server.port) == ROUTES
    await in_force(server.port, ROUTES)
    with pytest.raises(NotReached, match="not all shards serve other"):
        await in_force(server.port, {"other"}, limit=0.2)


async def test_what_does_not_come_about_is_told(server):
    async with Desk(server) as desk:
        with pytest.raises(NotReached, match="a third shard within"):
            await desk.until(lambda now: len(now) == 3, 0.1, "a third shard")


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "pipeline.toml"
    path.write_text("before")
    with path.open() as reader:
        replace_file(path, "after")
        assert reader.read() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_command_writes_its_figures(tmp_path):
    file = tmp_path / "shards.json"
    command = [sys.executable, "-m", "benchmarks.shards", "--quick", "--only", "kill", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    figures = {row["figure"]: row for row in json.loads(file.read_text())["figures"]}
    assert len(figures) == 5
    assert done.returncode == (0 if all(row["met"] for row in figures.values()) else 1)
    assert figures["a shard killed: failed requests of the other"]["value"] == 0
    assert figures["a shard killed: counts that do not add up"]["value"] == 0
