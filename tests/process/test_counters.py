import os

import pytest

from pipeline.process.counters import SharedMemory, State


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=3, block=16)
    yield memory
    memory.close()


def attached(memory: SharedMemory) -> SharedMemory:
    return SharedMemory.attach(os.dup(memory.descriptor), block=16)


def test_both_sides_see_the_same(memory):
    other = attached(memory)
    other.blocks[1][3] += 5
    memory.draining = True
    memory.knowledge.born(77, again=True)
    memory.shards[2].state = State.READY
    assert memory.blocks[1][3] == 5
    assert other.draining
    assert (other.knowledge.pid, other.knowledge.restarts, other.knowledge.state) == (77, 1, State.STARTING)
    assert [slot.state for slot in other.shards] == [State.ABSENT, State.ABSENT, State.READY]
    other.close()


def test_no_two_things_share_a_cell(memory):
    for number, block in enumerate(memory.blocks, 1):
        assert len(block) == 16
        for index in range(16):
            block[index] = number
    memory.draining = True
    for number, slot in enumerate([memory.knowledge, *memory.shards], 10):
        slot.born(number, again=False)
    assert [set(block) for block in memory.blocks] == [{1}, {2}, {3}]
    assert [slot.pid for slot in [memory.knowledge, *memory.shards]] == [10, 11, 12, 13]
    assert memory.draining


def test_the_memory_outlives_the_process_that_wrote_it(memory):
    child = os.fork()
    if child == 0:
        attached(memory).blocks[0][0] = 42
        os._exit(9)
    os.waitpid(child, 0)
    assert memory.blocks[0][0] == 42


def test_a_process_that_died_has_no_pid_but_keeps_its_restarts(memory):
    slot = memory.shards[0]
    slot.born(5, again=False)
    slot.died()
    slot.born(6, again=True)
    assert (slot.pid, slot.restarts) == (6, 1)
    slot.died()
    assert (slot.pid, slot.restarts, slot.state) == (0, 1, State.DOWN)


def test_another_layout_is_refused(memory):
    with pytest.raises(ValueError, match="16 cells a shard, ours 17"):
        SharedMemory.attach(memory.descriptor, block=17)
