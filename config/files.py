"""Reading the files that a configuration consists of or refers to."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from config.errors import Unreadable

MAX_TOKENIZER_BYTES = 64 << 20  # such files have some 10 MiB

Stamp = tuple[int, int, int, int] | None  # of a file; None for one that is not there

_KINDS = {
    stat.S_IFDIR: "is a directory",
    stat.S_IFIFO: "is a pipe",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
    stat.S_IFSOCK: "is a socket",
}


def stamp(path: Path) -> Stamp:
    """Another one when there is another file, or its contents are others. Of the file at the end of all links; its
    inode tells of a new file under the old name, whatever its times say."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def opened(path: Path) -> BinaryIO:
    """The file, to read. One that is no regular file (a pipe, which may keep its readers waiting for ever, a device,
    which may have no end) is Unreadable, as is one that cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreadable(reason.lower(), "a file that can be read") from error
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise Unreadable(_KINDS.get(kind, "no regular file"), "a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int) -> bytes:
    """What is in the file; of more than `limit` bytes it is Unreadable."""
    with opened(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise Unreadable((error.strerror or str(error)).lower(), "a file that can be read") from error
    if len(data) > limit:
        raise Unreadable("a larger file", f"a file of at most {limit:,} bytes")
    return data


def read_text(path: Path, limit: int) -> str:
    """The file's text, without a byte order mark; at most `limit` bytes of UTF-8, else Unreadable."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"bytes that are not UTF-8 on line {line}", "text in UTF-8") from None
