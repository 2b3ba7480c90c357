"""Between shards: which of them serves a request, and the way there and back.

A request is served by the shard that its session belongs to (`pipeline.policy.affinity`), whichever accepted it. Each
shard listens on a Unix socket and is connected to every other's. Frames are arrays: the request's number, a kind, and
what the kind carries. An answer's bytes are sent on credit, so that a client that does not read holds back its own
backend call and nobody else.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.core.errors import Overloaded
from pipeline.core.outcomes import Place, Reason
from pipeline.edge.driven import Driven
from pipeline.edge.forward import Asked, Ended, Forwarded
from pipeline.edge.relayed import Back, RelayedCall
from pipeline.knowledge.places import private_socket, socket_address
from pipeline.policy.affinity import owner
from pipeline.process.counters import Peer, SharedMemory
from pipeline.process.handover import Outbox
from pipeline.process.wire import Wire

_HELLO, _ASK, _CANCEL, _CREDIT, _WHOLE, _DATA, _END = range(7)

UNSENT_MAX = 1 << 26  # bytes that a shard may be behind in taking what it is handed
_AVOID_SECONDS = 1.0  # how long a process that broke off is not tried again
_UNEVEN = 1.25  # times as much to do as elsewhere, and
_MORE = 2  # so many more, before a request without a session or a new connection is handed over

Serve = Callable[[int, Asked, int, Back], tuple[RelayedCall, Coroutine[Any, Any, None]]]


def relay_path(folder: Path, pid: int) -> Path:
    """Where the process with this id takes requests from other shards."""
    return folder / f"shard-{pid}.sock"


class Relay:
    """This shard's side: where requests go (`pipeline.edge.forward.Peers`), and the socket that others' come over.

    open → serve → retire → close. To be used on its event loop.
    """

    def __init__(self, shard: int, seat: int, memory: SharedMemory, folder: Path, pid: int | None = None) -> None:
        self.alone = memory.shards == 1
        self.relayed = 0  # requests handed to other shards, since the start
        self._shard = shard
        self._memory = memory
        self._own = memory.seats[seat]
        self._folder = folder
        self._pid = os.getpid() if pid is None else pid
        self._loop = asyncio.get_running_loop()
        self._generation = -1
        self._peers: dict[int, Peer] = {}
        self._ways: dict[int, Way] = {}  # by process
        self._aside: dict[int, Way] = {}  # to processes that take no requests any more, but have some left
        self._outboxes: dict[int, Outbox] = {}  # by process
        self._given: dict[int, int] = {}  # connections that it should have, by process; until the next tick
        self._avoided: set[int] = set()
        self._serving = 0
        self._stirred: Callable[[], None] | None = None
        self._server: asyncio.AbstractServer | None = None
        self._doors: set[Door] = set()

    async def open(self, serve: Serve) -> None:
        """From now on other shards can hand over requests."""
        sock = private_socket(relay_path(self._folder, self._pid))
        self._server = await self._loop.create_unix_server(lambda: Door(self._loop, serve, self._doors).wire, sock=sock)

    def retire(self) -> None:
        """Another process has taken this one's place: what comes in is handed over."""
        self.alone = False
        self._generation = -1

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        relay_path(self._folder, self._pid).unlink(missing_ok=True)
        for door in list(self._doors):
            door.wire.close()
        for way in [*self._ways.values(), *self._aside.values()]:
            way.close()
        for outbox in self._outboxes.values():
            outbox.close()

    # Where a request goes.

    def road(self, session: str | None) -> "Way | None":
        if self._memory.generation != self._generation:
            self._look()
        peers = self._peers
        if not peers:
            return None
        peer = peers[owner(session, peers)] if session is not None else self._least(peers)
        return None if peer.pid == self._pid else self._ways[peer.pid]

    def process(self, pid: int, shard: int) -> "Way | None":
        if pid == self._pid or pid in self._avoided:
            return None
        if self._memory.generation != self._generation:
            self._look()
        way = self._ways.get(pid) or self._aside.get(pid)
        seats = [index for index, slot in enumerate(self._memory.seats) if slot.pid == pid]
        if way is None and seats:
            way = self._aside[pid] = self._way(Peer(shard, pid, seats[0]))
        return way

    def served(self, more: int) -> None:
        self._serving += more
        self._own.load = self._serving
        if self._stirred is not None:
            callback, self._stirred = self._stirred, None
            callback()

    def when_there_is(self, callback: Callable[[], None]) -> None:
        """See `pipeline.process.teller.Work`."""
        self._stirred = callback

    def roomier(self, connections: int) -> Callable[[socket.socket], bool] | None:
        if self._memory.generation != self._generation:
            self._look()
        self._own.connections = connections
        others = [peer for peer in self._peers.values() if peer.pid != self._pid]
        if not others or len(others) == len(self._peers):
            return None
        least = min(others, key=self._connections)
        if connections <= _UNEVEN * self._connections(least) + _MORE:
            return None
        return partial(self._give, least)

    def tick(self, now: float, connections: int) -> None:
        """Ten times a second: connects to processes that are new, and ends what stands at others beyond its
        deadline. So many clients are connected here."""
        self._own.connections = connections
        self._given.clear()
        if self._memory.generation != self._generation:
            self._look()
        for way in [*self._ways.values(), *self._aside.values()]:
            way.end_overdue(now)

    def _least(self, peers: dict[int, Peer]) -> Peer:
        """This shard, unless another has clearly less to do: handing over costs something."""
        own = peers.get(self._shard)
        if own is not None and own.pid == self._pid:
            if self._serving <= _MORE:
                return own
        else:
            own = None
        least = min(peers.values(), key=self._load)
        return least if own is None or self._serving > _UNEVEN * self._load(least) + _MORE else own

    def _load(self, peer: Peer) -> int:
        """As it says itself, or as we know better: what we have just handed over it has not seen yet."""
        way = self._ways.get(peer.pid)
        return max(self._memory.seats[peer.seat].load, 0 if way is None else way.pending)

    def _connections(self, peer: Peer) -> int:
        """As it says itself, or as we know better: what we have just given it it has not taken in yet."""
        told = self._memory.seats[peer.seat].connections
        return max(told, self._given.get(peer.pid, 0))

    def _give(self, peer: Peer, sock: socket.socket) -> bool:
        pid = peer.pid
        try:
            if pid not in self._outboxes:
                self._outboxes[pid] = Outbox(self._folder, pid)
        except OSError:
            return False
        self._given[pid] = self._connections(peer) + 1
        return not self._outboxes[pid].give(iter([sock]))

    def _look(self) -> None:
        """Who takes requests now."""
        self._generation = self._memory.generation
        live = [peer for peer in self._memory.peers() if peer.pid not in self._avoided]
        self._peers = {peer.shard: peer for peer in live}
        wanted = {peer.pid: peer for peer in live if peer.pid != self._pid}
        for pid, way in list(self._ways.items()):
            if pid not in wanted:
                del self._ways[pid]
                way.finish()
        for pid in self._outboxes.keys() - wanted.keys():
            self._outboxes.pop(pid).close()
        for pid, peer in wanted.items():
            if pid not in self._ways:
                self._ways[pid] = self._way(peer)

    def _way(self, peer: Peer) -> "Way":
        way = Way(self._loop, peer, self._shard, relay_path(self._folder, peer.pid), self._down)
        way.count = self._count
        return way

    def _count(self) -> None:
        self.relayed += 1

    def _down(self, way: "Way") -> None:
        """The way to a process broke off: it is gone, or will be known to be in a moment."""
        pid = way.pid
        if self._aside.get(pid) is way:
            del self._aside[pid]
        elif self._ways.get(pid) is not way:
            return
        self._avoided.add(pid)
        self._loop.call_later(_AVOID_SECONDS, self._forgive, pid)
        self._look()

    def _forgive(self, pid: int) -> None:
        self._avoided.discard(pid)
        self._generation = -1


class Way:
    """To one other process (`pipeline.edge.forward.Road`). `down` is told when it breaks off."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: Peer, own: int, path: Path, down: Callable[["Way"], None]
    ) -> None:
        self.shard = peer.shard
        self.pid = peer.pid
        self.wire = Wire(loop, self._received, self._closed)
        self.count: Callable[[], None] = lambda: None
        self._loop = loop
        self._down = down
        self._numbers = count(1)
        self._pending: dict[int, Forwarded] = {}
        self._finishing = False
        self._broken = False
        self.wire.put((0, _HELLO, own))
        self._connecting = loop.create_task(self._connect(path))

    @property
    def pending(self) -> int:
        """Requests handed over that have not ended."""
        return len(self._pending)

    def ready(self) -> Awaitable[None] | None:
        return None if self.wire.open else self._wait()

    def ask(self, asked: Asked, back: Forwarded) -> int:
        if self.wire.unsent > UNSENT_MAX:
            raise Overloaded(
                "The server has no place left; try again later",
                place=Place.INGRESS.label,
                reason=Reason.QUEUE_FULL,
                retry_after=1.0,
            )
        number = next(self._numbers)
        self._pending[number] = back
        self.wire.put((number, _ASK, asked))
        self.count()
        return number

    def credit(self, number: int, amount: int) -> None:
        self.wire.put((number, _CREDIT, amount))

    def cancel(self, number: int) -> None:
        if self._pending.pop(number, None) is not None:
            self.wire.put((number, _CANCEL))
            self._perhaps_finish()

    def finish(self) -> None:
        """Closes once nothing is under way."""
        self._finishing = True
        self._perhaps_finish()

    def close(self) -> None:
        self._connecting.cancel()
        self.wire.close()

    def end_overdue(self, now: float) -> None:
        for back in [back for back in self._pending.values() if back.deadline < now]:
            back.overdue()

    async def _connect(self, path: Path) -> None:
        try:
            with socket_address(path) as address:
                await self._loop.create_unix_connection(lambda: self.wire, address)
        except OSError:
            self._closed()

    async def _wait(self) -> None:
        if not self._broken:
            await asyncio.shield(self._connecting)
        if not self.wire.open:
            self._closed()  # it may be closing, and the event loop has not said so yet: nobody must wait for that
            raise ConnectionError(f"shard {self.shard} has gone")

    def _received(self, frame: list[Any]) -> None:
        number, kind, *rest = frame
        if kind == _DATA:
            back = self._pending.get(number)
            if back is not None:
                back.data(*rest)
            return
        back = self._pending.pop(number, None)
        if back is None:  # cancelled meanwhile
            return
        if kind == _WHOLE:
            status, fields, body, ended = rest
            back.whole(status, fields, body, Ended(*ended))
        else:
            frames, ended = rest
            back.end(frames, Ended(*ended))
        if self._finishing:
            self._perhaps_finish()

    def _perhaps_finish(self) -> None:
        if self._finishing and not self._pending:
            self.close()

    def _closed(self) -> None:
        if self._broken:
            return
        self._broken = True
        self._down(self)
        pending, self._pending = self._pending, {}
        for back in pending.values():
            back.lost()


class Door:
    """What comes from one other process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, serve: Serve, doors: set["Door"]) -> None:
        self.wire = Wire(loop, self._received, self._closed)
        self._loop = loop
        self._serve = serve
        self._doors = doors
        self._from = -1
        self._calls: dict[int, tuple[RelayedCall, Driven]] = {}
        doors.add(self)

    # `pipeline.edge.relayed.Back`

    def whole(self, number: int, status: int, fields: str, body: bytes, ended: Ended) -> None:
        self.wire.put((number, _WHOLE, status, fields, body, ended))

    def data(self, number: int, fields: str, frames: bytes) -> None:
        self.wire.put((number, _DATA, fields, frames))

    def end(self, number: int, frames: bytes, ended: Ended) -> None:
        self.wire.put((number, _END, frames, ended))

    def _received(self, frame: list[Any]) -> None:
        number, kind, *rest = frame
        if kind == _ASK:
            call, handling = self._serve(number, Asked(*rest[0]), self._from, self)
            driven = Driven(handling, partial(self._over, number))
            self._calls[number] = call, driven
            driven.start()
        elif kind == _HELLO:
            (self._from,) = rest
        elif number in self._calls:
            call, driven = self._calls[number]
            if kind == _CANCEL:
                _end(call, driven)
            elif call.stream is not None:
                call.stream.credit(*rest)

    def _closed(self) -> None:
        self._doors.discard(self)
        for call, driven in list(self._calls.values()):
            call.orphaned = True
            _end(call, driven)

    def _over(self, number: int) -> None:
        self._calls.pop(number, None)


def _end(call: RelayedCall, driven: Driven) -> None:
    call.cancelled = True
    driven.cancel()
