"""Who holds leases, and whether they live: a locked file for each holder, beside what they share.

A holder's process has its file `flock`ed for as long as it lives: the kernel lets go when the process dies, however it
dies, so another one can tell at once. The file's time says when its holder last renewed: one that hangs for a lease's
length counts as dead too.
"""

import contextlib
import fcntl
import os
import re
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

_TOKEN = re.compile(r"[0-9]+:[0-9]+:[0-9a-z]+")


def new_token(shard: int) -> str:
    """Unlike everybody else's, also where process ids come round again."""
    return f"{shard}:{os.getpid()}:{secrets.token_hex(4)}"


class Holders:
    """The holders' folder, and this holder's file in it. To be used from any thread; `lease_seconds` and `now` in
    seconds (wall clock)."""

    def __init__(self, folder: Path, token: str, lease_seconds: float, now: Callable[[], float]) -> None:
        self.folder = folder
        self.token = token
        self._lease_seconds = lease_seconds
        self._now = now
        self._file: int | None = None
        self._lock = threading.Lock()
        _open.add(self)

    def renew(self) -> None:
        """Shows that this holder lives. Raises OSError."""
        with self._lock:
            if self._file is None or not self._in_place(self._file):
                self._enter()
            else:
                os.utime(self._file, (self._now(), self._now()))

    def _enter(self) -> None:
        self.folder.mkdir(exist_ok=True)
        hidden = self.folder / f".{self.token}"
        file = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            # Locked before anybody can see it: else it would look like a dead holder's.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(file, (self._now(), self._now()))
            hidden.rename(self.folder / self.token)
        except OSError:
            os.close(file)
            raise
        self._close()
        self._file = file

    def leave(self) -> None:
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    (self.folder / self.token).unlink()
            self._close()

    def alive(self, token: str) -> bool:
        """Whether this holder's process lives and has renewed within a lease's length. What a dead one left is
        removed."""
        if token == self.token:
            return self._file is not None
        if not _TOKEN.fullmatch(token):
            return False
        path = self.folder / token
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it cannot be told: better wait than run twice
        try:
            # Shared: two who look at the same time must not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self._now() - os.fstat(file).st_mtime <= self._lease_seconds
        else:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        finally:
            os.close(file)

    def dead(self, tokens: Iterable[str]) -> list[str]:
        return [token for token in tokens if not self.alive(token)]

    def others(self) -> list[str]:
        """Those that live besides this one. What dead ones left is removed."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            return []
        return [name for name in names if _TOKEN.fullmatch(name) and name != self.token and self.alive(name)]

    def forked(self) -> None:
        """In a child process: its parent's death must not be hidden by a copy of the lock."""
        self._close()

    def _in_place(self, file: int) -> bool:
        try:
            there = (self.folder / self.token).stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(file))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


_open: "weakref.WeakSet[Holders]" = weakref.WeakSet()


def _after_fork() -> None:
    for holders in list(_open):
        holders.forked()


os.register_at_fork(after_in_child=_after_fork)
