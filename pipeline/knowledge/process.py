"""The life of the knowledge process: take the data folder, open, warm, serve, close."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from config.schema import Config
from config.secrets import resolve
from pipeline.core.errors import RetrievalError
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.places import COLLECTIONS, LOCK, SOCKET
from pipeline.knowledge.server import KnowledgeServer
from pipeline.knowledge.service import Knowledge

_log = structlog.get_logger()

POLL_SECONDS = 0.05
YIELD_SECONDS = 1.0


async def serve(config: Config, *, ready: Callable[[], None], stopping: asyncio.Event, temporary: bool = False) -> None:
    """Serves the configured collections on `<data_dir>/knowledge.sock` until `stopping` is set.

    One process per data folder: while another holds it, this one waits. A `temporary` process (started by
    `headgate ingest` where no daemon runs) gives way to one that is not; and it returns, without having called `ready`,
    when it finds that another one serves already.

    Raises OSError when the data folder cannot be used, `EmbedderUnavailable`, and ConfigError for a missing secret.
    """
    data_dir = _prepared(Path(config.server.data_dir))
    async with _exclusive(data_dir, stopping, temporary=temporary) as held:
        if not held:
            return
        knowledge = Knowledge(config.collections, config.knowledge, data_dir, resolve, config.workers)
        server = KnowledgeServer(knowledge, data_dir / SOCKET, stopping.set if temporary else None)
        try:
            await knowledge.open()
            if not temporary:  # else it is about to be filled
                await knowledge.warn_of_empty()
            await server.start()
            ready()
            await stopping.wait()
        finally:
            await server.aclose()
            await knowledge.aclose()


def _prepared(data_dir: Path) -> Path:
    absolute = data_dir.absolute()
    (absolute / COLLECTIONS).mkdir(parents=True, exist_ok=True)
    return absolute


@asynccontextmanager
async def _exclusive(data_dir: Path, stopping: asyncio.Event, *, temporary: bool) -> AsyncIterator[bool]:
    """Holds the data folder's lock; False when there is no need for it any more."""
    descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor) or await _wait(descriptor, data_dir, stopping, temporary=temporary)
    finally:
        os.close(descriptor)  # and with it the lock


def _locked(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def _wait(descriptor: int, data_dir: Path, stopping: asyncio.Event, *, temporary: bool) -> bool:
    """Until the process that holds the lock has ended. Asks it to end, in case it is a temporary one."""
    _log.warning("waiting_for_data_dir", data_dir=str(data_dir), reason="another process has it")
    loop = asyncio.get_running_loop()
    asked = loop.time() - YIELD_SECONDS
    while not _locked(descriptor):
        if stopping.is_set():
            return False
        if loop.time() - asked >= YIELD_SECONDS:
            asked = loop.time()
            if await _other_serves(data_dir, ask_to_yield=not temporary) and temporary:
                return False
        await asyncio.sleep(POLL_SECONDS)
    return True


async def _other_serves(data_dir: Path, *, ask_to_yield: bool) -> bool:
    client = KnowledgeClient(data_dir / SOCKET)
    try:
        async with asyncio.timeout(YIELD_SECONDS):
            await client.connect()
            if ask_to_yield and not await client.request_yield():
                _log.warning("data_dir_in_use", data_dir=str(data_dir), reason="another Headgate daemon serves from it")
            return True
    except (RetrievalError, TimeoutError):
        return False
    finally:
        await client.aclose()
