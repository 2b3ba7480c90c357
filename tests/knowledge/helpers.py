"""A knowledge process in this one: the real thing, on a socket in a temporary folder."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from config.load import encode
from config.schema import Config
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.process import serve
from pipeline.knowledge.wire import Piece

SEA = [
    ("Tides", "At low tide the channel is four metres deep."),
    ("Ferry", "The ferry leaves every forty minutes from the quay."),
    ("Lamp", "The lighthouse lamp is seen from thirty miles away."),
]


def config(data_dir: Path, *collections: dict[str, Any], **knowledge: Any) -> Config:
    """One embedded collection `docs` with the lexical embedder, unless others are given."""
    sections = [{"embedder": "lexical", **c} for c in collections or ({"name": "docs"},)]
    return msgspec.convert(
        {
            "server": {"data_dir": str(data_dir)},
            "knowledge": knowledge,
            "workers": [{"kind": "echo", "name": "echo"}],
            "routes": [{"name": "r", "worker": "echo"}],
            "collections": sections,
        },
        Config,
    )


def pieces(source: str = "sea.md", texts: list[tuple[str, str]] = SEA, digest: str = "d1") -> list[Piece]:
    last = len(texts) - 1
    return [Piece(source, i, title, text, digest, i == last) for i, (title, text) in enumerate(texts)]


@asynccontextmanager
async def served(conf: Config, *, temporary: bool = False) -> AsyncIterator[KnowledgeClient]:
    """A client of a process that is ready; afterwards both have ended."""
    ready, stopping = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(conf, ready=ready.set, stopping=stopping, temporary=temporary))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not ready.is_set():
        waiting.cancel()
        await task  # raises what kept it from becoming ready
        raise AssertionError("it ended before it was ready")
    client = KnowledgeClient(Path(conf.server.data_dir) / SOCKET)
    try:
        yield client
    finally:
        await client.aclose()
        stopping.set()
        await task


_DAEMON = """
import asyncio, signal, sys
import structlog
from config.load import decode
from pipeline.knowledge.process import serve

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for "ready"

async def main():
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await serve(decode(sys.stdin.buffer.read()), ready=lambda: print("ready", flush=True), stopping=stopping)

asyncio.run(main())
"""


class Daemon:
    """The knowledge process of a daemon: a real process."""

    def __init__(self, conf: Config) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", _DAEMON], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.child.stdin is not None
        self.child.stdin.write(encode(conf))
        self.child.stdin.close()

    async def ready(self) -> "Daemon":
        assert self.child.stdout is not None
        line = await asyncio.to_thread(self.child.stdout.readline)
        assert line == b"ready\n", await asyncio.to_thread(self.child.stderr.read) if self.child.stderr else b""
        return self

    def kill(self) -> None:
        self.child.kill()
        self._reap()

    def stop(self) -> int:
        self.child.terminate()
        return self._reap()

    def _reap(self) -> int:
        code = self.child.wait(timeout=20)
        for stream in (self.child.stdout, self.child.stderr):
            if stream is not None:
                stream.close()
        return code
