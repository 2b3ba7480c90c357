"""Which seat of the board a process that is born takes."""

from typing import NamedTuple, Protocol

from pipeline.process.counters import SharedMemory, Slot


class Seat(NamedTuple):
    """`number` is -1 for the knowledge process, which has a slot and no counters."""

    number: int
    slot: Slot


class Seats(Protocol):
    def take(self) -> Seat: ...

    def leave(self, seat: Seat) -> None: ...


class OneSeat:
    """Always the same: of a process that is never replaced while it lives."""

    def __init__(self, slot: Slot) -> None:
        self._seat = Seat(-1, slot)

    def take(self) -> Seat:
        return self._seat

    def leave(self, seat: Seat) -> None:
        """Nobody else may have it."""


class ShardSeats:
    """Those of all shards, and the spare one: the lowest that is free is taken."""

    def __init__(self, memory: SharedMemory) -> None:
        self._slots = memory.seats
        self._free = set(range(len(memory.seats)))

    def take(self) -> Seat:
        """There is one as long as no more than one shard at a time has two processes."""
        number = min(self._free)
        self._free.remove(number)
        return Seat(number, self._slots[number])

    def leave(self, seat: Seat) -> None:
        self._free.add(seat.number)
