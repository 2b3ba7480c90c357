import asyncio
import os
import select
import socket
from contextlib import closing, suppress

import pytest

from pipeline.observe.lines import LineWriter


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def everything(reader: int) -> bytes:
    data = b""
    with suppress(BlockingIOError):
        while piece := os.read(reader, 1 << 20):
            data += piece
    return data


async def readable(reader: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(reader, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(reader)


def numbered(count: int, width: int = 400) -> list[bytes]:
    return [b"%06d %s\n" % (number, b"x" * width) for number in range(count)]


async def test_gathered_lines_are_written_together_in_order(pipe):
    reader, descriptor = pipe
    with closing(LineWriter(descriptor)) as writer:
        writer.gather(b"one\n")
        writer.gather(b"two\n")
        assert everything(reader) == b""
        await readable(reader)
        assert everything(reader) == b"one\ntwo\n"


async def test_a_line_written_at_once_follows_what_was_gathered(pipe):
    reader, descriptor = pipe
    with closing(LineWriter(descriptor)) as writer:
        writer.gather(b"gathered\n")
        writer.write(b"written\n")
        assert everything(reader) == b"gathered\nwritten\n"


def test_without_an_event_loop_nothing_waits(pipe):
    reader, descriptor = pipe
    with closing(LineWriter(descriptor)) as writer:
        writer.gather(b"one\n")
        assert everything(reader) == b"one\n"


async def test_a_reader_that_stalls_costs_lines_but_no_time_and_no_memory(pipe):
    reader, descriptor = pipe
    lines = numbered(5000)
    reported: list[int] = []
    with closing(LineWriter(descriptor, limit=100_000)) as writer:
        writer.on_recovery = reported.append
        async with asyncio.timeout(5):
            for line in lines:
                writer.gather(line)
                await asyncio.sleep(0)
        assert writer.dropped > 0
        assert len(writer._buffer) <= 100_000 + len(lines[0])
        assert reported == []
        received = b""
        async with asyncio.timeout(5):
            while not reported:
                received += everything(reader)
                await asyncio.sleep(0.01)
        received += everything(reader)
    kept = received.splitlines(keepends=True)
    assert kept == lines[: len(kept)]
    assert len(kept) + writer.dropped == len(lines)
    assert reported == [writer.dropped]


async def test_the_descriptor_stays_as_it_is_for_those_who_share_it(pipe):
    _, descriptor = pipe
    with closing(LineWriter(descriptor)) as writer:
        writer.write(b"x\n")
        assert os.get_blocking(descriptor)


def test_a_write_holds_whole_lines_and_no_more_than_the_pipe_keeps_together(pipe):
    reader, descriptor = pipe
    with closing(LineWriter(descriptor)) as writer:
        sent: list[bytes] = []
        send = writer._outlet.send
        writer._outlet.send = lambda data: (sent.append(data), send(data))[1]
        writer._buffer += b"".join(numbered(40))
        writer.flush()
        assert b"".join(sent) == everything(reader) == b"".join(numbered(40))
        assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in sent)
        assert len(sent) < 10


def test_a_line_longer_than_that_still_arrives(pipe):
    reader, descriptor = pipe
    long = b"y" * 50_000 + b"\n"
    with closing(LineWriter(descriptor)) as writer:
        writer.write(long + b"short\n")
        assert everything(reader) == long + b"short\n"


def test_lines_of_several_processes_do_not_mix(pipe):
    reader, descriptor = pipe
    os.set_blocking(reader, True)
    children = []
    for letter in (b"a", b"b", b"c"):
        child = os.fork()
        if child == 0:
            writer = LineWriter(descriptor)
            for _ in range(600):
                writer.write(letter * 300 + b"\n")
            writer.close()
            os._exit(writer.dropped)
        children.append(child)
    os.close(descriptor)
    data = b""
    while piece := os.read(reader, 65_536):
        data += piece
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    lines = data.splitlines()
    assert sorted(set(lines)) == [b"a" * 300, b"b" * 300, b"c" * 300]
    assert len(lines) == 1800


def test_a_reader_that_is_gone_is_no_error(pipe):
    reader, descriptor = pipe
    os.close(reader)
    with closing(LineWriter(descriptor)) as writer:
        for _ in range(10_000):
            writer.write(b"z" * 500 + b"\n")
        assert not writer._buffer


def test_a_socket_is_asked_each_time():
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(LineWriter(ours.fileno(), limit=50_000)) as writer:
        while not writer.dropped:
            writer.write(b"s" * 999 + b"\n")
        assert ours.getblocking()
        theirs.setblocking(False)
        assert theirs.recv(1000) == b"s" * 999 + b"\n"
        theirs.close()


def test_a_file_is_appended_to(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    with closing(LineWriter(descriptor)) as writer:
        writer.write(b"".join(numbered(1000)))
    os.close(descriptor)
    assert path.read_bytes() == b"before\n" + b"".join(numbered(1000))


async def test_closing_gives_a_slow_reader_the_rest(pipe):
    reader, descriptor = pipe
    lines = numbered(500)
    writer = LineWriter(descriptor)
    writer._buffer += b"".join(lines)

    async def read() -> bytes:
        data = b""
        while len(data) < sum(map(len, lines)):
            data += await asyncio.to_thread(os.read, reader, 4096)
        return data

    os.set_blocking(reader, True)
    reading = asyncio.create_task(read())
    await asyncio.to_thread(writer.close)
    assert await reading == b"".join(lines)
