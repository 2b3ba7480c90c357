"""The memory that the supervisor shares with its children: what state each process is in, and the shards' counters.

One anonymous file, made by the supervisor, inherited by its children as a file descriptor and mapped by all of them.
It holds 64-bit cells: the status board, then one block of counters a shard. Each cell has one writer: a shard writes
its own block, the supervisor everything else, and the block of a dead shard.
"""

import enum
import mmap
import os
import time

_CELL = 8
_SLOT = 4  # cells a process has on the board
_HEAD = 4  # cells before the slots: block size, number of shards, draining, free


class State(enum.IntEnum):
    """ABSENT: there is no such process in this configuration. DOWN: it died and will be started again."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    STOPPING = 3
    DOWN = 4

    @property
    def label(self) -> str:
        return self.name.lower()


class Slot:
    """What the board says about one process."""

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

    def born(self, pid: int, *, again: bool) -> None:
        self._cells[self._first + 1] = pid
        self._cells[self._first + 2] = time.time_ns()
        self._cells[self._first + 3] += int(again)
        self.state = State.STARTING

    def died(self) -> None:
        self.state = State.DOWN
        self._cells[self._first + 1] = 0


class SharedMemory:
    """`descriptor` is handed to children, who `attach` to it. Give the same `block` (cells a shard) on both sides."""

    def __init__(self, descriptor: int, *, shards: int, block: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _size(shards, block))
        self._cells = memoryview(self._map).cast("Q")
        board = _HEAD + _SLOT * (shards + 1)
        self.knowledge = Slot(self._cells, _HEAD)
        self.shards = [Slot(self._cells, _HEAD + _SLOT * (index + 1)) for index in range(shards)]
        self.blocks = [self._cells[board + index * block :][:block] for index in range(shards)]

    @classmethod
    def create(cls, *, shards: int, block: int) -> "SharedMemory":
        descriptor = os.memfd_create("headgate-counters", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _size(shards, block))
        memory = cls(descriptor, shards=shards, block=block)
        memory._cells[0], memory._cells[1] = block, shards
        return memory

    @classmethod
    def attach(cls, descriptor: int, *, block: int) -> "SharedMemory":
        """Raises ValueError when the other side counts differently: it runs another version or configuration."""
        head = os.pread(descriptor, 2 * _CELL, 0)
        theirs, shards = memoryview(head).cast("Q")
        if theirs != block:
            raise ValueError(f"the supervisor's counters have {theirs} cells a shard, ours {block}")
        return cls(descriptor, shards=shards, block=block)

    @property
    def draining(self) -> bool:
        return bool(self._cells[2])

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._cells[2] = draining

    def close(self) -> None:
        """Unmaps the memory; nothing of it may be used any more."""
        for view in (*self.blocks, self._cells):
            view.release()
        self._map.close()
        os.close(self.descriptor)


def _size(shards: int, block: int) -> int:
    return (_HEAD + _SLOT * (shards + 1) + shards * block) * _CELL
