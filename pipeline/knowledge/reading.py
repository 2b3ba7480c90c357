"""Reads documents and cuts them into chunks, in a process of its own that is ended when a document takes too long.

Parsers of HTML and Markdown are quick on what people write, and quadratic on some of what machines produce; a thread
that is inside one cannot be stopped, a process can. Run as `python -m pipeline.knowledge.reading` it answers jobs on
standard input until that is closed.
"""

import asyncio
import errno
import hashlib
import os
import stat
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipeline.knowledge.chunking import VERSION, Text, chunk

MAX_BYTES = {".md": 64 << 20, ".txt": 64 << 20, ".html": 16 << 20}
TIME_LIMIT = 60.0  # seconds for one document


class Job(msgspec.Struct, frozen=True, array_like=True):
    """`known` is the digest of the version that the collection holds, '' when it holds none."""

    path: bytes  # as the operating system has it: it need not be UTF-8
    size: int
    overlap: int
    known: str


class Unchanged(msgspec.Struct, frozen=True, array_like=True, tag="unchanged"):
    pass


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="cut"):
    """The document in chunks, none when there is no text in it. `digest` depends on content and on how it is cut."""

    digest: str
    texts: list[Text]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The document cannot be used; `reason` is for people."""

    reason: str


Result = Unchanged | Cut | Refused


class Unreadable(Exception):
    """Raised when a file is not a document that can be used. Stays in this module, where it becomes `Refused`."""


def run(job: Job) -> Result:
    """Does one job. Raises nothing: what is wrong with a document is in the result."""
    path = Path(os.fsdecode(job.path))
    suffix = path.suffix.lower()
    try:
        data = _load(path, MAX_BYTES[suffix])
        digest = _digest(data, job)
        if digest == job.known:
            return Unchanged()
        texts = chunk(suffix, _decode(data), job.size, job.overlap)
    except Unreadable as unreadable:
        return Refused(str(unreadable))
    except Exception as error:  # noqa: BLE001 - a parser may fail in any way on a broken document
        return Refused(f"cannot be parsed: {type(error).__name__}: {error}"[:300])
    return Cut(digest, texts)


def _load(path: Path, limit: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), limit)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(_reason(error)) from error


def _check(found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("not a regular file")
    if found.st_size > limit:
        raise Unreadable(f"{found.st_size / (1 << 20):.0f} MiB, where {limit >> 20} MiB are allowed")


def _reason(error: OSError) -> str:
    return "a loop of symbolic links" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise Unreadable("not a text file (it holds zero bytes)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 (byte {error.start})") from error


def _digest(data: bytes, job: Job) -> str:
    """Of the content and of everything else that decides what the chunks are."""
    digest = hashlib.sha256(f"{VERSION} {job.size} {job.overlap}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:40]


class Reader:
    """Runs jobs in a child process, one at a time; starts it when needed, and anew after it had to be ended."""

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self._time_limit = time_limit
        self._child: Process | None = None
        self._turn = asyncio.Lock()

    async def read(self, job: Job) -> Result:
        async with self._turn:
            if self._child is None:
                self._child = await _start()
            try:
                async with asyncio.timeout(self._time_limit):
                    return await _ask(self._child, job)
            except TimeoutError:
                await self._end()
                return Refused(f"takes longer than {self._time_limit:.0f} s to parse")
            except (asyncio.IncompleteReadError, ConnectionError):
                await self._end()
                return Refused("its parser ended (out of memory?)")
            except BaseException:  # cancelled between question and answer: the next answer would be the wrong one
                await self._end()
                raise

    async def aclose(self) -> None:
        await self._end()

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            if child.returncode is None:
                child.kill()
            await child.communicate()


async def _start() -> Process:
    # -P: a folder named `pipeline` where the user works must not be imported. In a session of its own: an interrupt at
    # the terminal is for us, and we end it.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pipeline.knowledge.reading"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _ask(child: Process, job: Job) -> Result:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the child was started without pipes")
    child.stdin.write(_framed(_encoder.encode(job)))
    await child.stdin.drain()
    size = int.from_bytes(await child.stdout.readexactly(4), "big")
    return _results.decode(await child.stdout.readexactly(size))


def main() -> None:
    jobs, results = sys.stdin.buffer, sys.stdout.buffer
    while (body := _next(jobs)) is not None:
        results.write(_framed(_encoder.encode(run(_jobs.decode(body)))))
        results.flush()


def _next(jobs: BinaryIO) -> bytes | None:
    size = jobs.read(4)
    return jobs.read(int.from_bytes(size, "big")) if len(size) == 4 else None


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


_encoder = msgspec.msgpack.Encoder()
_jobs = msgspec.msgpack.Decoder(Job)
_results: msgspec.msgpack.Decoder[Result] = msgspec.msgpack.Decoder(Result)

if __name__ == "__main__":
    main()
