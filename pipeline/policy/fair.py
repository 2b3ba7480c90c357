"""Who is next, and who has to go: the requests of one worker that wait for Inference.

Four classes, strictly one before the other. Within a class the callers (API keys) take turns by weight, within a caller
its sessions take turns, within a session the first is the first. That is start-time fair queueing over callers, every
request counted as one (Goyal, Vin and Cheng, "Start-time Fair Queuing", ACM SIGCOMM 1996), and round-robin over
sessions (Nagle, "On Packet Switches with Infinite Storage", RFC 970).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pipeline.core.outcomes import Priority

T = TypeVar("T")
Entry = tuple[float, T]


class Flow(Generic[T]):
    """One session of one caller in one class. `work` counts its requests that were admitted and have not ended,
    `entries` are those of them that wait here."""

    __slots__ = ("caller", "entries", "session", "work")

    def __init__(self, caller: "_Caller[T]", session: str) -> None:
        self.caller = caller
        self.session = session
        self.work = 0
        self.entries: deque[Entry[T]] = deque()


class _Caller(Generic[T]):
    __slots__ = ("active", "flows", "name", "passed", "queue", "waiting", "weight", "work")

    def __init__(self, queue: "_Class[T]", name: str, weight: float) -> None:
        self.queue = queue
        self.name = name
        self.weight = weight
        self.work = 0
        self.waiting = 0
        self.passed = 0.0  # virtual time of its next turn
        self.flows: dict[str, Flow[T]] = {}
        self.active: OrderedDict[str, Flow[T]] = OrderedDict()  # with something waiting, the next first


class _Class(Generic[T]):
    __slots__ = ("active", "callers", "changes", "heaviest", "heaviest_at", "virtual", "waiting")

    def __init__(self) -> None:
        self.callers: dict[str, _Caller[T]] = {}
        self.active: dict[str, _Caller[T]] = {}
        self.waiting = 0
        self.virtual = 0.0
        self.changes = 0
        self.heaviest: Flow[T] | None = None
        self.heaviest_at = -1  # of `changes`


class FairQueue(Generic[T]):
    """`join` when a request is admitted, `push` when it comes to wait here, `leave` when it has ended. A request that
    waits here must be taken out by `pop`, `remove` or `withdraw` before it leaves. Not bounded: who admits, bounds."""

    def __init__(self) -> None:
        self._classes: tuple[_Class[T], ...] = tuple(_Class() for _ in Priority)
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def join(self, priority: Priority, caller: str, weight: float, session: str) -> Flow[T]:
        queue = self._classes[priority]
        holder = queue.callers.get(caller)
        if holder is None:
            holder = queue.callers[caller] = _Caller(queue, caller, weight)
        flow = holder.flows.get(session)
        if flow is None:
            flow = holder.flows[session] = Flow(holder, session)
        holder.weight = weight
        holder.work += 1
        flow.work += 1
        queue.changes += 1
        return flow

    def leave(self, flow: Flow[T]) -> None:
        holder = flow.caller
        queue = holder.queue
        queue.changes += 1
        flow.work -= 1
        holder.work -= 1
        if not flow.work:
            del holder.flows[flow.session]
        if not holder.work:
            del queue.callers[holder.name]

    def push(self, flow: Flow[T], entry: Entry[T]) -> None:
        holder = flow.caller
        queue = holder.queue
        if not flow.entries:
            holder.active[flow.session] = flow
        flow.entries.append(entry)
        if not holder.waiting:
            holder.passed = max(holder.passed, queue.virtual)
            queue.active[holder.name] = holder
        self._count(holder, 1)

    def pop(self) -> Entry[T] | None:
        """Takes out what is next; None where nothing waits."""
        for queue in self._classes:
            if queue.waiting:
                return self._pop_from(queue)
        return None

    def remove(self, flow: Flow[T], item: T) -> bool:
        """Takes `item` out, if it waits here."""
        for index, (_, each) in enumerate(flow.entries):
            if each is item:
                self._take_out(flow, index)
                return True
        return False

    def withdraw(self, match: Callable[[T], bool]) -> list[T]:
        """Takes out all that match."""
        found = [(flow, item) for flow in self._flows() for _, item in flow.entries if match(item)]
        for flow, item in found:
            self.remove(flow, item)
        return [item for _, item in found]

    def victim(self, priority: Priority, caller: str, weight: float, session: str | None) -> Entry[T] | None:
        """The waiting request of this class that has less right to its place than a newcomer would have: the newest of
        the session with most work, of the caller with most for its weight. None where that is the newcomer itself.

        `session=None`: not known, so that it may be one without any work. Nothing is changed.
        """
        queue = self._classes[priority]
        flow = self._heaviest(queue)
        if flow is None:
            return None
        own = queue.callers.get(caller)
        if own is flow.caller:
            work = 0 if session is None or session not in own.flows else own.flows[session].work
            return flow.entries[-1] if flow.work > work + 1 else None
        share = ((own.work if own is not None else 0) + 1) / weight
        return flow.entries[-1] if flow.caller.work / flow.caller.weight > share else None

    def newest_of_heaviest(self, priority: Priority) -> Entry[T] | None:
        """The waiting request of this class that has the least right to its place; None where nothing waits."""
        flow = self._heaviest(self._classes[priority])
        return None if flow is None else flow.entries[-1]

    def entries(self) -> list[Entry[T]]:
        """All that waits, in no particular order."""
        return [entry for flow in self._flows() for entry in flow.entries]

    def oldest(self) -> float | None:
        """When what waits longest was put."""
        return min((flow.entries[0][0] for flow in self._flows()), default=None)

    def _flows(self) -> Iterator[Flow[T]]:
        for queue in self._classes:
            for holder in queue.active.values():
                yield from holder.active.values()

    def _pop_from(self, queue: _Class[T]) -> Entry[T]:
        active = queue.active.values()
        holder = next(iter(active)) if len(active) == 1 else min(active, key=_turn)
        queue.virtual = holder.passed
        holder.passed += 1.0 / holder.weight
        session, flow = holder.active.popitem(last=False)
        entry = flow.entries.popleft()
        if flow.entries:
            holder.active[session] = flow  # behind the others
        self._count(holder, -1)
        return entry

    def _take_out(self, flow: Flow[T], index: int) -> None:
        del flow.entries[index]
        if not flow.entries:
            del flow.caller.active[flow.session]
        self._count(flow.caller, -1)

    def _count(self, holder: _Caller[T], change: int) -> None:
        queue = holder.queue
        holder.waiting += change
        queue.waiting += change
        self._waiting += change
        queue.changes += 1
        if not holder.waiting:
            del queue.active[holder.name]

    def _heaviest(self, queue: _Class[T]) -> Flow[T] | None:
        """Kept until something changes: under overload most who ask are refused, and change nothing."""
        if queue.heaviest_at != queue.changes:
            queue.heaviest_at = queue.changes
            queue.heaviest = None
            if queue.waiting:
                holder = max(queue.active.values(), key=_share)
                queue.heaviest = max(holder.active.values(), key=_work)
        return queue.heaviest


def _turn(holder: _Caller[T]) -> float:
    return holder.passed


def _share(holder: _Caller[T]) -> float:
    return holder.work / holder.weight


def _work(flow: Flow[T]) -> tuple[int, float]:
    return flow.work, flow.entries[-1][0]
