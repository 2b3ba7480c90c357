"""The discipline of Inference's queue: a lane for each worker, so that one that is slow keeps nobody else waiting."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from pipeline.core.ticket import Ticket
from pipeline.policy.admission import bulkhead
from pipeline.policy.lane import Lane

T = TypeVar("T")


class LaneOrder(Generic[T]):
    """Lanes take turns, each hands out what it has room for.

    An item is a message of the flow; the door has set `lane` and `flow` of its ticket. `ahead` are the places that
    calls need until their first delta, common to all lanes.
    """

    def __init__(self, lanes: Iterable[Lane[T]], ahead: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting = 0
        self.renew(lanes, ahead)

    def renew(self, lanes: Iterable[Lane[T]], ahead: int) -> None:
        """Other lanes from now on, with all in which something waits among them."""
        self.lanes = list(lanes)
        self.kept = ahead // (2 * max(len(self.lanes), 1))  # for each lane
        self._ahead = ahead

    def __len__(self) -> int:
        return self._waiting

    def append(self, entry: tuple[float, Any], /) -> None:
        ticket: Ticket = entry[1].request.ticket
        ticket.lane.queue.push(ticket.flow, entry)
        self._waiting += 1

    def take(self, limit: int) -> list[tuple[float, T]]:
        now = self._clock()
        rooms = [(lane, min(self.room(lane, now), len(lane.queue))) for lane in self.lanes if len(lane.queue)]
        taken: list[tuple[float, T]] = []
        for turn in range(max([room for _, room in rooms], default=0)):
            for lane, room in rooms:
                entry = lane.queue.pop() if turn < room and len(taken) < limit else None
                if entry is not None:
                    taken.append(entry)
        self._waiting -= len(taken)
        self.lanes.append(self.lanes.pop(0))  # another one first the next time
        return taken

    def room(self, lane: Lane[T], now: float) -> int:
        """How many calls of a lane may start now, with places left for the others'."""
        room = lane.room(now)
        if len(self.lanes) == 1 or room <= 0:
            return room
        others = [other.unanswered for other in self.lanes if other is not lane]
        return min(room, bulkhead(self._ahead, lane.unanswered, others))

    def withdraw(self, match: Callable[[T], bool]) -> list[T]:
        out = [item for lane in self.lanes if len(lane.queue) for item in lane.queue.withdraw(match)]
        self._waiting -= len(out)
        return out

    def drop(self, ticket: Ticket) -> bool:
        for _, item in ticket.flow.entries:
            if item.request.ticket is ticket:
                self._waiting -= 1
                removed: bool = ticket.lane.queue.remove(ticket.flow, item)
                return removed
        return False

    def oldest(self) -> float | None:
        return min((at for lane in self.lanes if (at := lane.queue.oldest()) is not None), default=None)

    def blocked(self) -> float:
        """Seconds until the quota of a lane lets it hand out what waits in it; 0.0: it is not a quota that it waits
        for."""
        now = self._clock()
        waits = [lane.blocked(now) for lane in self.lanes if len(lane.queue)]
        return min([wait for wait in waits if wait > 0.0], default=0.0)
