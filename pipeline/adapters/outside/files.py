"""Files that steps write: whole or not at all, and each append once, through crashes too.

Appends to a file are written down beside it, in `.headgate-appends`: what is about to be appended and where, and, once
that has been done, its key. Whoever comes next finishes what a crash has left half done. The last appends of a file are
remembered, some ten thousand.
"""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.adapters.outside import folder as folders
from pipeline.workflow.errors import StepFailed

NOTES = f"{folders.OWN}-appends"
_REMEMBERED = 1 << 19  # bytes of keys; then the older half is forgotten
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_ELSEWHERE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EXDEV})


class Pending(msgspec.Struct, frozen=True):
    """An append that may have been done, in part or not at all. `at` is where it begins in the file."""

    key: str
    at: int
    content: bytes


_decode = msgspec.msgpack.Decoder(Pending).decode


class Files:
    """Writes under `root`. Blocks: to be used in a thread."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))

    def write(self, path: str, content: bytes, *, append: bool, key: str) -> str:
        """See `pipeline.workflow.ports.Outside`. Raises `StepFailed`."""
        parts = folders.parts_of(path)
        try:
            with (
                folders.opened(self._root, [NOTES]) as notes,
                folders.locked(notes, "lock"),
                folders.opened(self._root, parts[:-1]) as folder,
            ):
                if append:
                    _Appends(folder, parts[-1], notes, path).append(content, key)
                else:
                    folders.replace(folder, parts[-1], content)
        except OSError as error:
            raise _failed(path, error) from error
        return str(self._root.joinpath(*parts))


class _Appends:
    """To one file, while nobody else appends."""

    def __init__(self, folder: int, name: str, notes: int, path: str) -> None:
        self._folder = folder
        self._name = name
        self._notes = notes
        digest = hashlib.sha256(path.encode("utf-8", "replace")).hexdigest()[:32]
        self._pending = f"{digest}.pending"
        self._keys = f"{digest}.keys"

    def append(self, content: bytes, key: str) -> None:
        noted = folders.read_whole(self._notes, self._pending)
        if not noted and self._known(key):
            return
        file = folders.regular(self._folder, self._name, os.O_RDWR | os.O_CREAT)
        try:
            self._finish(file, noted)
            if self._known(key):
                return
            pending = Pending(key, os.fstat(file).st_size, content)
            folders.replace(self._notes, self._pending, msgspec.msgpack.encode(pending))
            self._do(file, pending)
        finally:
            os.close(file)

    def _finish(self, file: int, noted: bytes) -> None:
        """What was left half done. Where somebody else has changed that part of the file since, it is left alone."""
        if not noted:
            return
        pending = _decode(noted)
        there = os.pread(file, len(pending.content), pending.at)
        if there == pending.content:
            self._remember(pending.key)
            self._forget()
        elif os.fstat(file).st_size >= pending.at and pending.content.startswith(there):
            self._do(file, pending)
        else:
            self._forget()

    def _known(self, key: str) -> bool:
        return self._line(key) in folders.read_whole(self._notes, self._keys).splitlines(keepends=True)

    def _do(self, file: int, pending: Pending) -> None:
        """At the file's end."""
        try:
            os.lseek(file, pending.at, os.SEEK_SET)
            folders.write_all(file, pending.content)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, pending.at)
            self._forget()
            raise
        self._remember(pending.key)
        self._forget()

    def _remember(self, key: str) -> None:
        known = folders.read_whole(self._notes, self._keys)
        if len(known) > _REMEMBERED:
            lines = known.splitlines(keepends=True)
            folders.replace(self._notes, self._keys, b"".join(lines[len(lines) // 2 :]))
        keys = folders.regular(self._notes, self._keys, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            broken = known[-1:] not in {b"", b"\n"}  # by a crash within a line
            folders.write_all(keys, (b"\n" if broken else b"") + self._line(key))
            os.fsync(keys)
        finally:
            os.close(keys)

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._pending, dir_fd=self._notes)

    @staticmethod
    def _line(key: str) -> bytes:
        return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32].encode() + b"\n"


def _failed(path: str, error: OSError) -> StepFailed:
    reason = (error.strerror or str(error)).lower()
    shown = f"path {path[:100]!r}"
    if error.errno in _ELSEWHERE:
        message = f"{shown}: a part of it is a link, or no folder"
        return StepFailed("not_allowed", message, details={"field": "path"})
    if error.errno in _FULL:
        return StepFailed("disk_full", f"{shown}: {reason}", retryable=True)
    return StepFailed("file_failed", f"{shown}: {reason}", retryable=error.errno in {errno.EIO, errno.EAGAIN})
