"""The link between the supervisor and a child: a socket pair with framed messages both ways.

A frame is the length of its payload (32 bits, little-endian) and the payload, a message in MessagePack. The end of the
stream is a message too: a side whose peer is gone reads it, however the peer died.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec

from config.errors import Problem
from pipeline.observe.layout import Counted
from pipeline.observe.usage import Counts, Who
from pipeline.policy.leases_limit import PushBack, Sample

LONGEST = 1 << 28  # bytes of a payload; a configuration of 100,000 keys has 20 MB

_length = struct.Struct("<I")


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


# From a child to the supervisor.


class Ready(_Message, frozen=True, tag="ready"):
    """The child does its work."""


class Failed(_Message, frozen=True, tag="failed"):
    """The child could not start, and would not if it tried again."""

    message: str


class Refused(_Message, frozen=True, tag="refused"):
    """The child found the configuration wanting: what only shows once things are built from it."""

    problems: list[Problem]


class Prepared(_Message, frozen=True, tag="prepared"):
    """The answer to `Prepare`: with problems, this shard cannot run that configuration."""

    number: int
    problems: list[Problem]


class Committed(_Message, frozen=True, tag="committed"):
    """The answer to `Commit`."""

    number: int


class PoolReport(_Message, frozen=True):
    """How a worker's calls go in one shard since the last report: see `pipeline.policy.leases_limit`.

    `waiting` and `running` are requests by class, `flows` the sessions that have any of them or asked lately, by class,
    each counted with its weight. `held` is the largest number of calls that this shard may have under way from now on:
    once the supervisor has read it, the rest of what was granted is free. `oldest` is the age in seconds of the oldest
    call without a first delta.
    """

    waiting: list[int]
    running: list[float]
    flows: list[float]
    held: int
    samples: list[Sample]
    pushed_back: list[PushBack]
    oldest: float


class AccountReport(_Message, frozen=True):
    """A shard's part of one limit a minute, or of so many at once: see `pipeline.policy.leases_credit`. `used` is what
    it has used since the last report (less what was given back) and `returned` what it does not hold any more without
    having used it; less than nothing is a debt. `working` is asked for to go on with, and for `wanted` somebody
    waits."""

    used: float
    returned: float
    working: float
    wanted: float


class Report(_Message, frozen=True, tag="report"):
    """Pools by worker; accounts by name, see `pipeline.policy.leases`. Only what changed. `seen` is the number of the
    last grant that was read before this was written."""

    seen: int
    pools: dict[str, PoolReport]
    accounts: dict[str, AccountReport]


class UsageReport(_Message, frozen=True, tag="usage"):
    """What requests have used here since the last report."""

    rows: list[tuple[Who, Counts]]


# From the supervisor to a child.


class PoolGrant(_Message, frozen=True):
    """`limit` of the `total` calls may be under way in this shard; `shares` is what each class can count on there, on
    average over time. `wanted`: somewhere more is asked for than there is, so that nobody is to keep a place idle."""

    limit: int
    total: int
    shares: list[float]
    wanted: bool


class AccountGrant(_Message, frozen=True):
    """`amount` more may be used; less than nothing: is to be given back as soon as it is free. `level` is left for all
    shards beyond what this one holds. With `recall` others want what lies unused here: the answer to it is a report.
    `parties` shards share what comes in."""

    amount: float
    level: float
    recall: bool
    parties: int


class Grant(_Message, frozen=True, tag="grant"):
    """Pools by worker; accounts by name. Only what changed. Numbers count up from 1 for each process."""

    number: int
    pools: dict[str, PoolGrant]
    accounts: dict[str, AccountGrant]


class Prepare(_Message, frozen=True, tag="prepare"):
    """Make ready to run `config` (see `config.load.encode`), and answer `Prepared`; nothing changes yet.

    `layout` has the steps by which the counters' layout grew meanwhile, for a process that was born before some of
    them: the history of a `MetricsLayout`, from the start. What `config` itself adds is the step after those."""

    number: int
    config: bytes
    layout: list[Counted] = []


class Commit(_Message, frozen=True, tag="commit"):
    """Run what was prepared under this number from now on, and answer `Committed`."""

    number: int


class Abort(_Message, frozen=True, tag="abort"):
    """Forget what was prepared under this number: another shard cannot run it."""

    number: int


class Retire(_Message, frozen=True, tag="retire"):
    """Another process has taken this one's place: finish what is open, hand over what is idle, and end."""


class SetLevel(_Message, frozen=True, tag="level"):
    """Log this level and above, until told otherwise or configured anew."""

    level: str


Message = (
    Ready
    | Failed
    | Refused
    | Prepared
    | Committed
    | Report
    | UsageReport
    | Grant
    | Prepare
    | Commit
    | Abort
    | Retire
    | SetLevel
)
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytes:
    payload = _encoder.encode(message)
    return _length.pack(len(payload)) + payload


class Link(asyncio.Protocol):
    """One end, on its event loop. `received` gets each message; `closed` is called once, when the peer is gone, also
    where it broke off in the middle of a message or sent what is none."""

    def __init__(self, received: Callable[[Any], None], closed: Callable[[], None]) -> None:
        self._received = received
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    @classmethod
    async def open(cls, sock: socket.socket, received: Callable[[Any], None], closed: Callable[[], None]) -> "Link":
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(received, closed), sock=sock)
        return link

    def send(self, message: Message) -> None:
        """Never waits; does nothing when the peer is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for message in self._messages():
            self._received(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        self._transport = None
        self._closed()

    def _messages(self) -> list[Any]:
        buffer, messages, at = self._buffer, [], 0
        while len(buffer) - at >= _length.size:
            (size,) = _length.unpack_from(buffer, at)
            end = at + _length.size + size
            if size <= LONGEST and end > len(buffer):
                break
            try:
                messages.append(_decoder.decode(bytes(buffer[at + _length.size : end])))
            except msgspec.DecodeError:
                at = len(buffer)
                self.close()
                break
            at = end
        del buffer[:at]
        return messages


class ChildLink:
    """The child's end, before and after its event loop: to say how its start went."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)

    def send(self, message: Message) -> None:
        """Does nothing when the supervisor is gone."""
        try:
            self.socket.setblocking(True)
            self.socket.sendall(frame(message))
        except OSError:
            return

    def close(self) -> None:
        self.socket.close()
