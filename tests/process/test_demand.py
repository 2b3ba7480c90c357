import os
from contextlib import closing

import pytest

from config.schema import ServerSection
from pipeline.observe.layout import Counted
from pipeline.observe.ledger import Ledger, Living
from pipeline.process import demand
from pipeline.process.counters import SharedMemory
from tests.flows import config

PLAIN = {"name": "plain", "worker": "echo"}
DOCS = {"name": "docs", "worker": "echo", "collection": "handbook"}
LENIENT = DOCS | {"name": "lenient", "on_retrieval_failure": "answer"}


@pytest.mark.parametrize(
    ("routes", "wanted", "essential"),
    [
        ([PLAIN], False, False),
        ([DOCS], True, True),
        ([PLAIN, DOCS], True, True),
        ([LENIENT, DOCS], True, True),
        ([PLAIN, LENIENT], True, False),
    ],
)
def test_who_needs_the_knowledge_process(routes, wanted, essential):
    configured = config(routes=routes, collections=[{"name": "handbook"}], workflows={"enabled": False})
    assert demand.wants_knowledge(configured) is wanted
    assert demand.depends_on_knowledge(configured) is essential


def test_workflows_may_use_a_collection_that_no_route_has():
    assert demand.wants_knowledge(config(routes=[PLAIN], collections=[{"name": "handbook"}]))
    assert not demand.wants_knowledge(config(routes=[PLAIN]))


def test_counters_follow_routes_and_their_workers():
    workers = [{"name": name, "kind": "echo"} for name in ("echo", "small", "spare")]
    workers.append({"name": "pool", "kind": "openai", "replicas": ["http://a:8000/v1", "http://b:8000/v1"]})
    shared = {"name": "shared", "workers": [{"worker": "echo"}, {"worker": "small", "weight": 0.0}]}
    layout = demand.layout(config(workers=workers, routes=[PLAIN | {"fallback": ["pool"]}, shared]))
    assert list(layout.routes) == ["-", "plain", "shared"]
    assert list(layout.workers) == ["echo", "pool", "small"]
    replicas = {"echo": ["0"], "small": ["0"], "pool": ["a:8000/v1", "b:8000/v1"]}
    assert layout.history == [Counted({"plain": ["echo", "pool"], "shared": ["echo", "small"]}, replicas)]


def test_there_is_room_for_what_comes_later():
    layout = demand.layout(config())
    room = demand.room(layout.size)
    assert layout.fits(Counted({f"route {n}": [f"worker {n % 200}"] for n in range(2000)}), room)
    for n in range(2000):  # one at a time takes more
        layout.extend(Counted({f"route {n}": [f"worker {n % 200}", f"worker {(n + 1) % 200}"]}))
    assert layout.size <= room


def test_room_that_is_not_used_costs_no_memory():
    layout = demand.layout(config())
    with closing(SharedMemory.create(shards=4, block=demand.room(layout.size))) as memory:
        ledger = Ledger(layout, 4, lambda: [Living(shard, memory.blocks[shard], True) for shard in range(4)])
        for shard in range(4):
            memory.blocks[shard][layout.opened] = 1
            assert layout.fits(Counted({"more": ["echo"]}), memory.room)
        assert ledger.read().total[layout.opened] == 4
        ledger.retire(3, memory.blocks[3])
        assert memory.room * 8 > 8 << 20
        assert os.fstat(memory.descriptor).st_blocks * 512 < 256 << 10


def test_as_many_shards_as_cores_that_this_process_may_use():
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert demand.shards(ServerSection()) == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert demand.shards(ServerSection()) == len(mine)
    assert demand.shards(ServerSection(shards=7)) == 7
