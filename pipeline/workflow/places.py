"""Limits of steps under way at once: of each run, of each type, and of all. Who finds no place waits in line.

Runs take turns, in a run of one type the first is the first, and types take turns where all places are taken. Whoever
gives a place back hands it on at once: nobody looks again later.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping


class Share:
    """A run's part: at most `limit` steps under way."""

    __slots__ = ("in_use", "limit", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.waiting: dict[str, deque[Ticket]] = {}


class Ticket:
    """A place that was asked for. `granted` is called when it is had, from within `ask` where there is one."""

    __slots__ = ("granted", "kind", "share", "taken")

    def __init__(self, share: Share, kind: str, granted: Callable[[], None]) -> None:
        self.share = share
        self.kind = kind
        self.granted: Callable[[], None] | None = granted  # None: withdrawn
        self.taken = False


class _Line:
    """Those of one type that wait. `turns`: runs with somebody waiting and below their own limit, in order."""

    __slots__ = ("in_use", "limit", "turns")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.turns: OrderedDict[Share, None] = OrderedDict()


class Places:
    """`limit` of all, `limits` by type; a type that is not named has no limit of its own."""

    def __init__(self, limit: int, limits: Mapping[str, int]) -> None:
        self._limit = limit
        self._limits = limits
        self._lines: dict[str, _Line] = {}
        self._open: OrderedDict[_Line, str] = OrderedDict()  # lines that somebody could be taken from
        self.in_use = 0
        self.waiting = 0

    def ask(self, ticket: Ticket) -> None:
        """Asks for a place; it is given back by `release`, or given up by it before it is had."""
        share, kind = ticket.share, ticket.kind
        line = self._line(kind)
        queue = share.waiting.get(kind)
        if queue is None:
            queue = share.waiting[kind] = deque()
        queue.append(ticket)
        self.waiting += 1
        if share.in_use < share.limit:
            line.turns.setdefault(share)
            self._note(line, kind)
            self._hand_out()

    def release(self, ticket: Ticket) -> None:
        """Gives it back, or up. May be called again."""
        if ticket.taken:
            ticket.taken = False
            share, line = ticket.share, self._lines[ticket.kind]
            full = share.in_use >= share.limit
            share.in_use -= 1
            line.in_use -= 1
            self.in_use -= 1
            if full:
                self._readmit(share)
            self._note(line, ticket.kind)
            self._hand_out()
        elif ticket.granted is not None:
            self.waiting -= 1
        ticket.granted = None

    def _line(self, kind: str) -> _Line:
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = _Line(self._limits.get(kind, self._limit))
        return line

    def _note(self, line: _Line, kind: str) -> None:
        if line.turns and line.in_use < line.limit:
            self._open.setdefault(line, kind)

    def _readmit(self, share: Share) -> None:
        """A run is below its limit again: it takes its turn in every line that it has somebody in."""
        for kind, queue in share.waiting.items():
            if queue:
                line = self._lines[kind]
                line.turns.setdefault(share)
                self._note(line, kind)

    def _hand_out(self) -> None:
        while self._open and self.in_use < self._limit:
            line, kind = self._open.popitem(last=False)
            if not line.turns or line.in_use >= line.limit:
                continue
            share, _ = line.turns.popitem(last=False)
            ticket = self._next(share, kind)
            if ticket is not None:
                self._grant(ticket, line)
            if share.in_use < share.limit and share.waiting.get(kind):
                line.turns.setdefault(share)
            self._note(line, kind)
            if ticket is not None and ticket.granted is not None:
                granted, ticket.granted = ticket.granted, None
                granted()

    @staticmethod
    def _next(share: Share, kind: str) -> Ticket | None:
        """The first who has not given up."""
        if share.in_use >= share.limit:
            return None
        queue = share.waiting[kind]
        while queue:
            ticket = queue.popleft()
            if ticket.granted is not None:
                return ticket
        return None

    def _grant(self, ticket: Ticket, line: _Line) -> None:
        ticket.taken = True
        self.waiting -= 1
        ticket.share.in_use += 1
        line.in_use += 1
        self.in_use += 1
