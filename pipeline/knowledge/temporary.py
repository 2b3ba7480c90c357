"""A knowledge process for the length of one `headgate ingest`, where no daemon runs.

The parent hands it the configuration on standard input and keeps that open: the child ends when it is closed, however
the parent ended. It says `ready` on standard output.
"""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import BinaryIO

import structlog
import uvloop
from msgspec.structs import replace

from config.errors import ConfigError
from config.load import decode, encode
from config.schema import CollectionSection, Config
from pipeline.knowledge.errors import IngestError
from pipeline.knowledge.process import serve
from workers.errors import EmbedderUnavailable

READY = b"ready\n"
END_SECONDS = 10.0  # then it is killed, which no collection minds
MAX_THREADS = 8


@asynccontextmanager
async def temporary_process(config: Config, section: CollectionSection) -> AsyncIterator[bool]:
    """Runs a knowledge process for one collection, on all cores. False when it turned out that another one serves.

    Raises `IngestError` when it could not be started; what it said is on standard error.
    """
    threads = max(config.knowledge.threads, min(os.cpu_count() or 1, MAX_THREADS))
    narrowed = replace(config, collections=[section], knowledge=replace(config.knowledge, threads=threads))
    child = await _start(encode(narrowed))
    try:
        yield await _ready(child)
    finally:
        await asyncio.shield(_end(child))


async def _start(config: bytes) -> Process:
    # -P: a folder named `config` where the user works must not be imported. A session of its own: an interrupt at the
    # terminal is for the parent, which then ends this one in order.
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pipeline.knowledge.temporary"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    if child.stdin is not None:
        child.stdin.write(len(config).to_bytes(4, "big") + config)
    return child


async def _ready(child: Process) -> bool:
    line = await child.stdout.readline() if child.stdout is not None else b""
    if line == READY:
        return True
    if await child.wait():
        raise IngestError("the knowledge process could not be started")
    return False


async def _end(child: Process) -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        async with asyncio.timeout(END_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def main() -> int:
    _log_warnings_only()
    config = decode(_read(sys.stdin.buffer))
    try:
        uvloop.run(_serve(config))
    except OSError as error:
        folder, why = config.server.data_dir, error.strerror or error
        print(f"Cannot write to the data folder {folder}: {why}", file=sys.stderr)  # noqa: T201 - the parent's terminal
        return 1
    except (EmbedderUnavailable, ConfigError) as error:
        print(f"knowledge process: {error}", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()
    parent = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, parent), sys.stdin)
    watch = asyncio.create_task(_until_closed(parent, stopping))
    await serve(config, ready=_say_ready, stopping=stopping, temporary=True)
    watch.cancel()


async def _until_closed(parent: asyncio.StreamReader, stopping: asyncio.Event) -> None:
    await parent.read()
    stopping.set()


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def _read(stream: BinaryIO) -> bytes:
    return stream.read(int.from_bytes(stream.read(4), "big"))


def _log_warnings_only() -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
