"""Writers of several processes take turns.

SQLite has its own lock, and it is taken too. It is not enough: up to 3.51.2 a write beside another process' checkpoint
could lose commits (https://sqlite.org/wal.html#walresetbug), and who waits for it may wait long, because it is polled
and goes to whoever asks at the right moment.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Turn:
    """Two locked files: `next` is held by the one who is next, `turn` by the one whose turn it is. So nobody has two
    turns while somebody waits. To be used from one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: tuple[int, int] | None = None
        self._is_next = False

    def open(self) -> None:
        """Raises OSError."""
        if self._files is None:
            self._folder.mkdir(exist_ok=True)
            self._files = (_opened(self._folder / "next"), _opened(self._folder / "turn"))

    def close(self) -> None:
        if self._files is not None:
            for file in self._files:
                os.close(file)
        self._files = None
        self._is_next = False

    def take(self) -> bool:
        """Asked again until it is true, or given up with `give`."""
        if self._files is None:
            return True
        following, turn = self._files
        if not self._is_next and not _locked(following):
            return False
        self._is_next = True
        if not _locked(turn):
            return False
        self._leave(following)
        return True

    def give(self) -> None:
        if self._files is not None:
            following, turn = self._files
            self._leave(following)
            fcntl.flock(turn, fcntl.LOCK_UN)

    def _leave(self, following: int) -> None:
        if self._is_next:
            fcntl.flock(following, fcntl.LOCK_UN)
            self._is_next = False


@contextlib.contextmanager
def giving(turn: Turn) -> Iterator[None]:
    try:
        yield
    finally:
        turn.give()


def _opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
