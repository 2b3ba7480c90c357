import os

import pytest

from pipeline.process.counters import Peer, SharedMemory, State


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=3, block=16)
    yield memory
    memory.close()


def attached(memory: SharedMemory) -> SharedMemory:
    return SharedMemory.attach(os.dup(memory.descriptor))


def test_both_sides_see_the_same(memory):
    other = attached(memory)
    other.blocks[1][3] += 5
    other.seats[2].pulse = 12.5
    other.seats[2].load = 7
    memory.draining = True
    memory.knowledge.born(77)
    memory.seats[3].state = State.READY
    memory.tell(1, State.GIVEN_UP)
    assert memory.blocks[1][3] == 5
    assert (memory.seats[2].pulse, memory.seats[2].load) == (12.5, 7)
    assert other.draining
    assert (other.knowledge.pid, other.knowledge.state) == (77, State.STARTING)
    assert [slot.state for slot in other.seats] == [State.ABSENT, State.ABSENT, State.ABSENT, State.READY]
    assert [other.state_of(shard) for shard in range(3)] == [State.ABSENT, State.GIVEN_UP, State.ABSENT]
    assert (other.shards, other.room, len(other.blocks)) == (3, 16, 4)
    other.close()


@pytest.mark.parametrize("shards", [1, 8, 9, 256])
def test_no_two_things_share_a_cell(shards):
    memory = SharedMemory.create(shards=shards, block=16)
    for number, block in enumerate(memory.blocks, 1):
        assert len(block) == 16
        for index in range(16):
            block[index] = number
    memory.draining = True
    slots = [memory.knowledge, *memory.seats]
    for number, slot in enumerate(slots, 1000):
        slot.born(number)
        slot.restarts, slot.pulse, slot.load = number + 1, number + 2, number + 3
    for shard in range(shards):
        memory.appoint(shard, shard + 1)
        memory.tell(shard, State(shard % 6))
    assert [set(block) for block in memory.blocks] == [{number} for number in range(1, shards + 2)]
    for number, slot in enumerate(slots, 1000):
        assert (slot.pid, slot.restarts, slot.pulse, slot.load) == (number, number + 1, number + 2, number + 3)
        assert slot.state is State.STARTING
    assert [memory.seat_of(shard) for shard in range(shards)] == [*range(1, shards + 1)]
    assert [memory.state_of(shard) for shard in range(shards)] == [State(shard % 6) for shard in range(shards)]
    assert memory.draining
    memory.close()


def test_a_shard_is_a_name_that_passes_from_seat_to_seat(memory):
    other = attached(memory)
    for seat in range(4):
        memory.seats[seat].born(100 + seat)
    assert other.peers() == []
    memory.appoint(0, 0)
    memory.appoint(2, 1)
    before = other.generation
    assert other.peers() == [Peer(0, 100, 0), Peer(2, 101, 1)]
    memory.appoint(0, 3)
    assert other.generation != before
    assert other.peers() == [Peer(0, 103, 3), Peer(2, 101, 1)]
    memory.appoint(2, None)
    assert (other.peers(), other.seat_of(2)) == ([Peer(0, 103, 3)], None)
    other.close()


def test_the_memory_outlives_the_process_that_wrote_it(memory):
    child = os.fork()
    if child == 0:
        attached(memory).blocks[0][0] = 42
        os._exit(9)
    os.waitpid(child, 0)
    assert memory.blocks[0][0] == 42


def test_who_is_born_starts_with_nothing_of_the_one_before(memory):
    slot = memory.seats[0]
    slot.born(5)
    slot.pulse, slot.load = 3.0, 4
    slot.died()
    assert (slot.pid, slot.load, slot.state) == (0, 0, State.DOWN)
    slot.born(6)
    assert (slot.pid, slot.pulse, slot.load, slot.state) == (6, 0.0, 0, State.STARTING)


def test_room_that_nobody_uses_costs_nothing():
    memory = SharedMemory.create(shards=8, block=1 << 20)  # 72 MiB
    try:
        assert sum(memory.blocks[3][: 1 << 10]) == 0
        assert os.fstat(memory.descriptor).st_blocks * 512 < 1 << 20
    finally:
        memory.close()
