"""Reading the small text files that a configuration consists of or refers to."""

from pathlib import Path

from config.errors import Unreadable

Stamp = tuple[int, int, int, int] | None  # of a file; None for one that is not there


def stamp(path: Path) -> Stamp:
    """Another one when there is another file, or its contents are others. Of the file at the end of all links; its
    inode tells of a new file under the old name, whatever its times say."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_text(path: Path, limit: int) -> str:
    """The file's text, without a byte order mark; at most `limit` bytes of UTF-8, else Unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Unreadable(reason.lower(), "a readable file") from error
    if len(data) > limit:
        raise Unreadable("a larger file", f"a file of at most {limit:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"bytes that are not UTF-8 on line {line}", "text in UTF-8") from None
