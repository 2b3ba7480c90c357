"""The file, and one thread's connection to it."""

import contextlib
import ctypes
import sqlite3
from pathlib import Path

from pipeline.adapters.journals import sqlite_schema
from pipeline.adapters.journals.writeback import Writeback
from pipeline.workflow.errors import JournalFailed

_Identity = tuple[int, int]  # device and inode

_SAYS = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_READONLY: "it or its folder is read-only",
    sqlite3.SQLITE_BUSY: "it is locked by another process",
    sqlite3.SQLITE_LOCKED: "it is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: do it and its folder exist, and may they be written?",
    sqlite3.SQLITE_IOERR: "its disk cannot be read or written",
    sqlite3.SQLITE_TOOBIG: "a value is too large for it",
    sqlite3.SQLITE_PERM: "it may not be used",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database",
}
# After these the connection goes on as before.
_HARMLESS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_TOOBIG}


class Place:
    """The journal's file. Once it is known, no other one may stand in its place: runs would be lost without a word."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._log = Path(f"{self.path}-wal")
        self._file: _Identity | None = None
        self._log_file: _Identity | None = None
        self._writeback = Writeback()

    @property
    def known(self) -> bool:
        return self._file is not None

    def learn(self) -> None:
        self._file = _identity(self.path)

    def learn_log(self) -> None:
        """The write-ahead log holds commits: it must stay too, for as long as there is a connection."""
        if self._log_file is None:
            self._log_file = _identity(self._log)
            self._writeback.open(self._log)

    def forget_log(self) -> None:
        self._log_file = None
        self._writeback.close()

    def committed(self) -> None:
        """To be told of every commit that is not on the disk yet."""
        self._writeback.committed()

    def check(self) -> None:
        """Raises `JournalFailed` where the file is gone or is another one."""
        if self._file is None:
            return
        found = _identity(self.path)
        if found is None:
            raise JournalFailed(f"The journal {self.path} is gone: put it back, or restart to begin with a new one")
        if found != self._file:
            raise JournalFailed(f"The journal {self.path} has been replaced by another file: put it back, or restart")
        if self._log_file is not None and _identity(self._log) != self._log_file:
            raise JournalFailed(f"The journal's log {self._log} is gone or another one: put it back, or restart")


class Database:
    """A connection that is made when it is needed. To be used from one thread. `create`: the file may be made, as long
    as none is known."""

    def __init__(self, place: Place, synchronous: str, patience: float, *, writes: bool) -> None:
        self.place = place
        self._synchronous = synchronous
        self._patience = patience
        self._writes = writes
        self._connection: sqlite3.Connection | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def committed(self) -> None:
        """To be told of every commit."""
        if self._synchronous != "full":  # then it is on the disk
            self.place.committed()

    def get(self) -> sqlite3.Connection:
        """Raises `JournalFailed`, sqlite3.Error."""
        self.place.check()
        if self._connection is None:
            self._connection = self._made()
        return self._connection

    def close(self) -> None:
        if self._connection is None:
            return
        try:
            self.place.check()
        except JournalFailed:
            # The last one to close a database deletes the log beside it, by its name. That may be another's by now: so
            # this connection is never closed (the process' end does that without SQLite).
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        else:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        if self._writes:
            self.place.forget_log()

    def failed(self, error: sqlite3.Error) -> JournalFailed:
        """What to tell of it. A connection that may have suffered is made anew the next time."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _HARMLESS:
            self.close()
        if code == sqlite3.SQLITE_CORRUPT:
            return JournalFailed(sqlite_schema.damaged(self.place.path, str(error)))
        return JournalFailed(f"The journal {self.place.path} failed: {_SAYS.get(code, str(error))}")

    def _made(self) -> sqlite3.Connection:
        create = self._writes and not self.place.known
        connection = sqlite_schema.connect(self.place.path, create=create, patience=self._patience)
        try:
            if self._writes:
                sqlite_schema.prepare(connection, self.place.path)
            sqlite_schema.tune(connection, self._synchronous, writes=self._writes)
        except BaseException:
            connection.close()
            raise
        if not self.place.known:
            self.place.learn()
        return connection


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
