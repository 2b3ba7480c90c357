"""Who is next, and who has to go: the requests of one worker that wait for Inference.

Four classes, strictly one before the other. Within a class the callers (API keys) take turns by weight, within a caller
its sessions take turns, within a session the first is the first. That is start-time fair queueing over callers, every
request counted as one (Goyal, Vin and Cheng, "Start-time Fair Queuing", ACM SIGCOMM 1996), and round-robin over
sessions (Nagle, "On Packet Switches with Infinite Storage", RFC 970).

Who has to go is who has most: work that waits or runs, and what was done for it lately. Without that memory a session
that asks ten times as often as others would find a place each time they happen to have none, and get twice their share.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from math import exp
from typing import Generic, TypeVar

from pipeline.core.outcomes import Priority

RECENT = 2.0  # seconds after which what was done for a session counts for a third
_FORGOTTEN = 4 * RECENT

T = TypeVar("T")
Entry = tuple[float, T]


class _Holder:
    """Somebody with `work`: requests that were admitted and have not ended."""

    __slots__ = ("_done", "_done_at", "work")

    def __init__(self) -> None:
        self.work = 0
        self._done = 0.0
        self._done_at = 0.0

    def finish(self, now: float) -> None:
        """One of its requests was served."""
        self._done = self.recent(now) + 1.0
        self._done_at = now

    def recent(self, now: float) -> float:
        """Requests that were served lately, the older the less."""
        since = now - self._done_at
        return self._done * exp(-since / RECENT) if self._done and since > 0.0 else self._done

    def load(self, now: float) -> float:
        return self.work + self.recent(now)


class Flow(_Holder, Generic[T]):
    """One session of one caller in one class. `entries` are those of its requests that wait here; `counted` is the
    weight with which it counts while it has work."""

    __slots__ = ("caller", "counted", "entries", "session")

    def __init__(self, caller: "_Caller[T]", session: str) -> None:
        super().__init__()
        self.caller = caller
        self.session = session
        self.counted = 0.0
        self.entries: deque[Entry[T]] = deque()


class _Caller(_Holder, Generic[T]):
    __slots__ = ("active", "flows", "name", "passed", "queue", "waiting", "weight")

    def __init__(self, queue: "_Class[T]", name: str, weight: float) -> None:
        super().__init__()
        self.queue = queue
        self.name = name
        self.weight = weight
        self.waiting = 0
        self.passed = 0.0  # virtual time of its next turn
        self.flows: dict[str, Flow[T]] = {}
        self.active: OrderedDict[str, Flow[T]] = OrderedDict()  # with something waiting, the next first


class _Class(Generic[T]):
    __slots__ = ("active", "callers", "changes", "flows", "heaviest", "heaviest_at", "idle", "virtual", "waiting")

    def __init__(self) -> None:
        self.idle: OrderedDict[Flow[T], float] = OrderedDict()  # without work, remembered since
        self.callers: dict[str, _Caller[T]] = {}
        self.active: dict[str, _Caller[T]] = {}
        self.waiting = 0
        self.flows = 0.0
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

    @property
    def flows(self) -> list[float]:
        """By class, the sessions with work, each counted with its caller's weight."""
        return [max(queue.flows, 0.0) for queue in self._classes]

    @property
    def sessions(self) -> int:
        """How many named sessions have work, one for each class that they have it in."""
        found = 0
        for queue in self._classes:
            found -= len(queue.idle)
            for holder in queue.callers.values():
                unnamed = holder.flows.get("")
                found += len(holder.flows) - (unnamed is not None and unnamed.work > 0)
        return found

    def join(self, priority: Priority, caller: str, weight: float, session: str) -> Flow[T]:
        queue = self._classes[priority]
        holder = queue.callers.get(caller)
        if holder is None:
            holder = queue.callers[caller] = _Caller(queue, caller, weight)
        flow = holder.flows.get(session)
        if flow is None:
            flow = holder.flows[session] = Flow(holder, session)
        elif not flow.work:
            queue.idle.pop(flow, None)
        if not flow.work:
            flow.counted = weight
            queue.flows += weight
        holder.weight = weight
        holder.work += 1
        flow.work += 1
        queue.changes += 1
        return flow

    def leave(self, flow: Flow[T], now: float, *, served: bool) -> None:
        """A request has ended. `served`: it was worked for."""
        holder = flow.caller
        queue = holder.queue
        queue.changes += 1
        flow.work -= 1
        holder.work -= 1
        if not flow.work:
            queue.flows -= flow.counted
        if not (queue.waiting or queue.idle):
            if not flow.work:
                _forget(flow)
            return
        if served:
            flow.finish(now)
            holder.finish(now)
        if not flow.work:
            queue.idle[flow] = now
        while queue.idle:
            oldest, since = next(iter(queue.idle.items()))
            # Where nobody waits, nobody has to go, and nothing need be remembered.
            if queue.waiting and abs(now - since) < _FORGOTTEN:
                break
            del queue.idle[oldest]
            _forget(oldest)

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

    def victim(
        self, priority: Priority, caller: str, weight: float, session: str | None, now: float
    ) -> Entry[T] | None:
        """The waiting request of this class that has less right to its place than a newcomer would have: the newest of
        the session with most work, of the caller with most for its weight. None where that is the newcomer itself.

        `session=None`: not known, so that it may be one without any work. Nothing is changed.
        """
        queue = self._classes[priority]
        flow = self._heaviest(queue, now)
        if flow is None:
            return None
        own = queue.callers.get(caller)
        if own is flow.caller:
            load = 0.0 if session is None or session not in own.flows else own.flows[session].load(now)
            return flow.entries[-1] if flow.load(now) > load + 1 else None
        share = ((own.load(now) if own is not None else 0.0) + 1) / weight
        return flow.entries[-1] if flow.caller.load(now) / flow.caller.weight > share else None

    def newest_of_heaviest(self, priority: Priority, now: float) -> Entry[T] | None:
        """The waiting request of this class that has the least right to its place; None where nothing waits."""
        flow = self._heaviest(self._classes[priority], now)
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

    def _heaviest(self, queue: _Class[T], now: float) -> Flow[T] | None:
        """Kept until something changes: under overload most who ask are refused, and change nothing."""
        if queue.heaviest_at != queue.changes:
            queue.heaviest_at = queue.changes
            queue.heaviest = None
            if queue.waiting:
                holder = max(queue.active.values(), key=lambda holder: holder.load(now) / holder.weight)
                queue.heaviest = max(holder.active.values(), key=lambda flow: (flow.load(now), flow.entries[-1][0]))
        return queue.heaviest


def _forget(flow: Flow[T]) -> None:
    """Callers stay, there are no more of them than keys; and so does each one's session without a name."""
    if flow.session:
        del flow.caller.flows[flow.session]


def _turn(holder: _Caller[T]) -> float:
    return holder.passed
