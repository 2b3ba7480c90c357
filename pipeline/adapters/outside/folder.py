"""A folder that steps write files into, and nothing beside it.

A path is opened part by part, each relative to the one before and none through a link, so that nothing under the folder
leads out of it, whatever else is done to it meanwhile.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.workflow.errors import StepFailed

OWN = ".headgate"  # names that begin so are ours
MAX_PARTS = 16
_MAX_NAME = 200  # bytes: there is room for a temporary name of it
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def parts_of(path: str) -> list[str]:
    """Raises `StepFailed` for what leads elsewhere or is no file's name."""
    if "\0" in path:
        raise _refused(path, "it holds a zero character")
    if path.startswith("/"):
        raise _refused(path, "it is absolute; expected one within workflows.files_dir")
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        raise _refused(path, f"it has more than {MAX_PARTS} parts")
    for part in parts:
        if part in {"", ".", ".."}:
            raise _refused(path, "a part of it is empty, . or ..")
        if part.startswith(OWN):
            raise _refused(path, f"names that begin with {OWN} are taken")
        if len(os.fsencode(part.encode("utf-8", "replace").decode())) > _MAX_NAME:
            raise _refused(path, f"a part of it has more than {_MAX_NAME} bytes")
    return [part.encode("utf-8", "replace").decode() for part in parts]


def _refused(path: str, reason: str) -> StepFailed:
    return StepFailed("not_allowed", f"path {path[:100]!r}: {reason}", details={"field": "path"})


@contextmanager
def opened(root: Path, parts: list[str]) -> Iterator[int]:
    """The folder that these parts name under `root`, made where it is not there. Raises OSError: ELOOP or ENOTDIR
    where there is a link on the way."""
    root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=folder)
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


@contextmanager
def locked(folder: int, name: str) -> Iterator[None]:
    """Nobody else, in whatever process, is in here for the same file at the same time."""
    lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def replace(folder: int, name: str, content: bytes) -> None:
    """Writes a whole file, in the place of the one there was: at any moment it is either of them."""
    temporary = f"{OWN}-{secrets.token_hex(8)}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def regular(folder: int, name: str, flags: int) -> int:
    """Opens a regular file. Raises OSError; EINVAL for what is none."""
    file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file")
    return file


def read_whole(folder: int, name: str) -> bytes:
    """Empty where there is no such file."""
    try:
        file = regular(folder, name, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    with os.fdopen(file, "rb") as opened_file:
        return opened_file.read()


def write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
