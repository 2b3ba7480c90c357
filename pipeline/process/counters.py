"""The memory that the supervisor shares with its children: what state each process is in, and the shards' counters.

One anonymous file, made by the supervisor, inherited by its children as a file descriptor and mapped by all of them.
It holds 64-bit cells: the board, then a block of counters for each seat. A process takes a seat from birth to death;
a shard is a name that passes from process to process, and the board says on which seat it is now. There is a seat more
than there are shards, for a process that is to take another's place while that one still works.

Each cell has one writer: a shard's process writes its block, its pulse and its load, the supervisor everything else,
and all of it once the process is dead.
"""

import enum
import mmap
import os
import time
from typing import NamedTuple

_CELL = 8
_SLOT = 8  # cells a process has on the board: a cache line
_HEAD = 8  # cells before: size of a block, seats, draining, generation, shards


class State(enum.IntEnum):
    """ABSENT: there is no such process in this configuration. DOWN: it died and will be started again. GIVEN_UP: it
    died too often."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    STOPPING = 3
    DOWN = 4
    GIVEN_UP = 5

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


class Peer(NamedTuple):
    """A shard that takes requests, and the process that it is now."""

    shard: int
    pid: int
    seat: int


class Slot:
    """What the board says about one process. `pulse` is when its event loop turned last, in seconds of the monotonic
    clock; `load` how many requests are being served there, `connections` how many clients are connected."""

    def __init__(self, cells: memoryview, first: int) -> None:
        self._cells = cells
        self._first = first

    @property
    def state(self) -> State:
        return State(self._cells[self._first])

    @state.setter
    def state(self, state: State) -> None:
        self._cells[self._first] = state

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return self._cells[self._first + 1]

    @property
    def started(self) -> float:
        """Seconds since the epoch."""
        return self._cells[self._first + 2] / 1e9

    @property
    def restarts(self) -> int:
        return self._cells[self._first + 3]

    @restarts.setter
    def restarts(self, number: int) -> None:
        self._cells[self._first + 3] = number

    @property
    def pulse(self) -> float:
        return self._cells[self._first + 4] / 1e9

    @pulse.setter
    def pulse(self, seconds: float) -> None:
        self._cells[self._first + 4] = int(seconds * 1e9)

    @property
    def load(self) -> int:
        return self._cells[self._first + 5]

    @load.setter
    def load(self, requests: int) -> None:
        self._cells[self._first + 5] = requests

    @property
    def connections(self) -> int:
        return self._cells[self._first + 6]

    @connections.setter
    def connections(self, number: int) -> None:
        self._cells[self._first + 6] = number

    def born(self, pid: int) -> None:
        self._cells[self._first + 1] = pid
        self._cells[self._first + 2] = time.time_ns()
        self._cells[self._first + 4] = self._cells[self._first + 5] = self._cells[self._first + 6] = 0
        self.state = State.STARTING

    def died(self) -> None:
        self.state = State.DOWN
        self._cells[self._first + 1] = self._cells[self._first + 5] = self._cells[self._first + 6] = 0


class SharedMemory:
    """`descriptor` is handed to children, who `attach` to it. `block` (later `room`) is the number of cells that a
    seat's block has room for; what is not used of it costs nothing."""

    def __init__(self, descriptor: int, *, shards: int, seats: int, block: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _size(shards, seats, block))
        self._cells = memoryview(self._map).cast("Q")
        self._owners = _HEAD
        self._states = _HEAD + _row(shards)
        slots = self._states + _row(shards)
        board = slots + _SLOT * (seats + 1)
        self.shards = shards
        self.room = block
        self.knowledge = Slot(self._cells, slots)
        self.seats = [Slot(self._cells, slots + _SLOT * (index + 1)) for index in range(seats)]
        self.blocks = [self._cells[board + index * block :][:block] for index in range(seats)]

    @classmethod
    def create(cls, *, shards: int, block: int, seats: int | None = None) -> "SharedMemory":
        seats = shards + 1 if seats is None else seats
        descriptor = os.memfd_create("headgate-counters", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size(shards, seats, block))
        memory = cls(descriptor, shards=shards, seats=seats, block=block)
        memory._cells[0], memory._cells[1], memory._cells[4] = block, seats, shards
        return memory

    @classmethod
    def attach(cls, descriptor: int) -> "SharedMemory":
        head = memoryview(os.pread(descriptor, _HEAD * _CELL, 0)).cast("Q")
        return cls(descriptor, shards=head[4], seats=head[1], block=head[0])

    @property
    def draining(self) -> bool:
        return bool(self._cells[2])

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._cells[2] = draining

    @property
    def generation(self) -> int:
        """Changes whenever `peers` does. Reading it costs a request next to nothing."""
        return self._cells[3]

    def seat_of(self, shard: int) -> int | None:
        """The seat of the process that takes the shard's requests; None while there is none."""
        seat = self._cells[self._owners + shard]
        return seat - 1 if seat else None

    def appoint(self, shard: int, seat: int | None) -> None:
        """From now on the process on `seat` takes the shard's requests; None: nobody does. For the supervisor."""
        self._cells[self._owners + shard] = 0 if seat is None else seat + 1
        self._cells[3] += 1

    def state_of(self, shard: int) -> State:
        """How the shard is, whichever process it is now."""
        return State(self._cells[self._states + shard])

    def tell(self, shard: int, state: State) -> None:
        """For the supervisor."""
        self._cells[self._states + shard] = state

    def peers(self) -> list[Peer]:
        """The shards that take requests, in order."""
        found = [(shard, self.seat_of(shard)) for shard in range(self.shards)]
        return [Peer(shard, self.seats[seat].pid, seat) for shard, seat in found if seat is not None]

    def close(self) -> None:
        """Unmaps the memory; nothing of it may be used any more."""
        for view in (*self.blocks, self._cells):
            view.release()
        self._map.close()
        os.close(self.descriptor)


def _row(shards: int) -> int:
    """Cells for one of each shard, in whole cache lines."""
    return -(-shards // _SLOT) * _SLOT


def _size(shards: int, seats: int, block: int) -> int:
    return (_HEAD + 2 * _row(shards) + _SLOT * (seats + 1) + seats * block) * _CELL
