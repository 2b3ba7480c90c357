import asyncio
import socket
import struct

import pytest

from config.errors import Problem
from pipeline.process.link import (
    LONGEST,
    ChildLink,
    Failed,
    Link,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Retire,
    SetLevel,
    frame,
)


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []
        self.closed = 0
        self.changed = asyncio.Event()

    def received(self, message: object) -> None:
        self.heard.append(message)
        self.changed.set()

    def lost(self) -> None:
        self.closed += 1
        self.changed.set()

    async def until(self, condition) -> None:
        async with asyncio.timeout(2):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def ends():
    """The supervisor's link with its ear, and the child's raw end."""
    ours, theirs = socket.socketpair()
    ear = Ear()
    link = await Link.open(ours, ear.received, ear.lost)
    yield link, ear, theirs
    link.close()
    theirs.close()
    await asyncio.sleep(0)


MESSAGES = [
    Ready(),
    Failed("no\nroom"),
    Refused([Problem("routes[0].name", "nothing", "a name")]),
    Prepare(3, b"\x00\xff" * 100_000),
    Prepared(7, [Problem("workers[0].api_key", "nothing", "a secret")]),
    Retire(),
    SetLevel("debug"),
]


async def test_messages_arrive_as_they_were_sent_and_in_order(ends):
    _, ear, theirs = ends
    child = ChildLink(theirs.detach())
    sending = asyncio.to_thread(lambda: [child.send(message) for message in MESSAGES])
    await sending
    await ear.until(lambda: len(ear.heard) == len(MESSAGES))
    assert ear.heard == MESSAGES
    child.close()
    await ear.until(lambda: ear.closed)


async def test_both_ways_on_event_loops(ends):
    link, ear, theirs = ends
    other = Ear()
    back = await Link.open(theirs.dup(), other.received, other.lost)
    link.send(Retire())
    await other.until(lambda: other.heard)
    back.send(Ready())
    await ear.until(lambda: ear.heard)
    assert (other.heard, ear.heard) == ([Retire()], [Ready()])
    back.close()


async def test_a_message_that_comes_in_pieces(ends):
    _, ear, theirs = ends
    theirs.setblocking(True)
    for byte in frame(SetLevel("info")):
        theirs.send(bytes([byte]))
        await asyncio.sleep(0)
    await ear.until(lambda: ear.heard)
    assert ear.heard == [SetLevel("info")]


@pytest.mark.parametrize(
    "data",
    [
        frame(Ready())[:-1],
        b"\x01\x00\x00\x00\xc1",
        frame(Ready()) + struct.pack("<I", LONGEST + 1),
        b'{"type":"ready"}\n' * 20,
    ],
    ids=["cut off", "no message", "too long", "another protocol"],
)
async def test_a_peer_that_breaks_off_or_talks_nonsense_is_gone(ends, data):
    _, ear, theirs = ends
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    await ear.until(lambda: ear.closed)
    assert ear.closed == 1
    assert ear.heard in ([], [Ready()])


async def test_speaking_to_nobody_is_no_error(ends):
    link, ear, theirs = ends
    theirs.close()
    await ear.until(lambda: ear.closed)
    link.send(Ready())
    ours, nobody = socket.socketpair()
    nobody.close()
    child = ChildLink(ours.detach())
    child.send(Ready())
    child.close()


async def test_what_the_peer_has_not_read_is_known(ends):
    link, _, theirs = ends
    assert link.unsent == 0
    link.send(Prepare(1, bytes(10_000_000)))
    assert link.unsent > 1_000_000
    theirs.close()
