import asyncio
import socket

import pytest

from config.errors import Problem
from pipeline.process.link import ChildLink, Failed, Ready, Refused, next_message


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    link = ChildLink(theirs.detach())
    yield ours, link
    ours.close()
    link.close()


@pytest.mark.parametrize(
    "message", [Ready(), Failed("no\nroom"), Refused([Problem("routes[0].name", "nothing", "a name")])]
)
async def test_a_message_arrives_as_it_was_sent(ends, message):
    ours, link = ends
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    link.send(message)
    assert await next_message(reader) == message
    writer.close()


async def test_a_child_that_dies_says_nothing(ends):
    ours, link = ends
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    link._socket.sendall(b'{"type":"rea')
    link.close()
    assert await next_message(reader) is None
    writer.close()


async def test_a_child_is_told_once_when_its_supervisor_is_gone(ends):
    ours, link = ends
    told: list[bool] = []
    gone = asyncio.Event()
    link.on_orphaned(lambda: (told.append(True), gone.set()))
    await asyncio.sleep(0.02)
    assert not told
    ours.close()
    await asyncio.wait_for(gone.wait(), 1)
    await asyncio.sleep(0.02)
    assert told == [True]


def test_speaking_to_nobody_is_no_error(ends):
    ours, link = ends
    ours.close()
    link.send(Ready())
