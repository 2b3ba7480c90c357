"""A connection passes from one server to another without its client noticing."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager

import pytest

from pipeline.edge.app import EdgeServer
from pipeline.process.handover import Inbox, Outbox
from tests.flows import config, running
from tests.http import NoOperations

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def edges():
    conf = config()
    async with running(conf) as (pipeline, _):
        both = [EdgeServer(pipeline.ingress, conf.server, NoOperations(), shard=shard) for shard in (0, 1)]
        sock = socket.create_server(("127.0.0.1", 0))
        await both[0].start(sock)
        try:
            yield both, sock.getsockname()[1]
        finally:
            for edge in both:
                await edge.stop()


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    return head + await asyncio.wait_for(reader.readexactly(length), 2)


@pytest.fixture
def inbox(tmp_path):
    """What becomes of connections is set by the test."""

    class Taken:
        adopt = None

        def __call__(self, sock):
            self.adopt(sock)

    return Taken(), tmp_path


@pytest.mark.parametrize("asked_before", [True, False], ids=["after a request", "new"])
@pytest.mark.parametrize("sent", [b"", HEALTH[:20], HEALTH], ids=["nothing", "a part", "a request"])
async def test_the_next_request_is_answered_by_the_other(inbox, asked_before, sent):
    taken, folder = inbox
    async with edges() as ((first, second), port):
        box = Inbox(folder, taken)
        taken.adopt = second.adopt
        outbox = Outbox(folder, os.getpid())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if asked_before:
            writer.write(HEALTH)
            assert b"X-Headgate-Shard: 0\r\n" in await answered(reader)
        async with asyncio.timeout(2):
            while first.connections < 1:
                await asyncio.sleep(0.005)
        os.write(writer.transport.get_extra_info("socket").fileno(), sent)  # in the kernel, unread
        assert outbox.give(first.surrender()) == []
        writer.write(HEALTH[len(sent) :])
        assert b"X-Headgate-Shard: 1\r\n" in await answered(reader)
        assert (first.connections, second.connections) == (0, 1)
        writer.close()
        outbox.close()
        box.close()


async def test_what_nobody_takes_stays(inbox):
    taken, folder = inbox
    async with edges() as ((first, _), port):
        box = Inbox(folder, taken)
        outbox = Outbox(folder, os.getpid())
        box.close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH)
        await answered(reader)
        (kept,) = outbox.give(first.surrender())
        first.adopt(kept)
        writer.write(HEALTH)
        assert b"X-Headgate-Shard: 0\r\n" in await answered(reader)
        writer.close()
        outbox.close()
        with pytest.raises(OSError, match="No such file"):
            Outbox(folder, os.getpid())


async def test_a_connection_with_a_request_under_way_stays(inbox):
    async with edges() as ((first, _), port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(2):
            while not any(not one.idle for one in first._http.connections):
                await asyncio.sleep(0.005)
        assert list(first.surrender()) == []
        writer.close()
        del reader
