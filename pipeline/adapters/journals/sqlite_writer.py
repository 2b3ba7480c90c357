"""The writer's thread: everything that waits is one transaction."""

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.adapters.journals import sqlite_appends, sqlite_leases, sqlite_upkeep
from pipeline.adapters.journals.holders import Holders
from pipeline.adapters.journals.sizes import Sizes
from pipeline.adapters.journals.sqlite_database import Database
from pipeline.adapters.journals.sqlite_jobs import (
    Append,
    Claim,
    Create,
    Doom,
    Job,
    Purge,
    Register,
    Release,
    ReleaseAll,
    Shrink,
)
from pipeline.adapters.journals.turns import Turn, giving
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import RUN_MAX

_FIRST_PAUSE = 0.0003  # between two attempts to get a turn, in seconds
_LONGEST_PAUSE = 0.005
# What one of many may be to blame for: the others are tried without it.
_SOMEBODYS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG}


class Writer:
    """Does jobs, in order. To be used from one thread. `patience`: seconds that it waits for others' locks."""

    def __init__(
        self,
        database: Database,
        holders: Holders,
        turn: Turn,
        *,
        inline_bytes: int,
        patience: float,
        run_max: int = RUN_MAX,
    ) -> None:
        self._database = database
        self._holders = holders
        self._turn = turn
        self._inline_bytes = inline_bytes
        self._patience = patience
        self._sizes = Sizes(run_max)

    def handle(self, jobs: Sequence[Job]) -> list[Any]:
        """What comes of each, `JournalFailed` where nothing does."""
        try:
            return self._committed(jobs)
        except JournalFailed as error:
            return [error] * len(jobs)
        except OSError as error:
            return [JournalFailed(f"The journal {self._database.place.path} cannot be used: {error}")] * len(jobs)
        except sqlite3.Error as error:
            failure: Exception = self._database.failed(error)
            common = getattr(error, "sqlite_errorcode", 0) & 0xFF not in _SOMEBODYS
        except Exception as error:  # noqa: BLE001 - a bug, that somebody's job brought to light
            failure, common = error, False
        if len(jobs) == 1 or common:
            return [failure] * len(jobs)
        return [self.handle([job])[0] for job in jobs]

    def close(self) -> None:
        """Gives back all leases."""
        if self._database.connected:
            self.handle([ReleaseAll()])
            # The last one to close folds the log into the file: a write beside others' too.
            until = time.monotonic() + self._patience
            with giving(self._turn), contextlib.suppress(JournalFailed):
                _patiently(self._turn.take, until, self._locked())
                self._database.close()
        self._database.close()
        self._turn.close()
        self._holders.leave()

    def _committed(self, jobs: Sequence[Job]) -> list[Any]:
        until = time.monotonic() + self._patience
        self._turn.open()
        with giving(self._turn):
            _patiently(self._turn.take, until, self._locked())
            connection = self._connected()
            _patiently(lambda: _begun(connection), until, self._locked())
            self._database.place.learn_log()
            try:
                results = self._done(connection, jobs)
                self._database.place.check()  # not into a file that is somewhere else by now
                connection.execute("COMMIT")
            except BaseException:
                self._sizes.forget()
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._database.place.check()
        self._database.committed()
        return results

    def _connected(self) -> sqlite3.Connection:
        if self._database.connected:
            return self._database.get()
        place = self._database.place
        if not place.known and not place.path.exists() and self._holders.others():
            raise JournalFailed(f"The journal {place.path} is gone, while others use it: put it back")
        connection = self._database.get()
        self._holders.renew()
        return connection

    def _locked(self) -> JournalFailed:
        path, patience = self._database.place.path, self._patience
        return JournalFailed(f"The journal {path} is locked by another process (waited {patience:g} s)", retry_after=1)

    def _done(self, connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Any]:
        results: list[Any] = []
        for kind, alike in itertools.groupby(jobs, type):
            results += self._alike(connection, kind, list(alike))
        return results

    def _alike(self, connection: sqlite3.Connection, kind: type[Job], jobs: list[Any]) -> list[Any]:
        if kind is Append:
            return sqlite_appends.append(connection, self._holders, self._inline_bytes, self._sizes, jobs)
        if kind is Create:
            creating = sqlite_leases.Creating(connection, self._holders.token, self._inline_bytes)
            return creating.create(jobs)
        if kind is Release:
            return list(sqlite_leases.release(connection, self._holders.token, jobs))
        return [self._single(connection, job) for job in jobs]

    def _single(self, connection: sqlite3.Connection, job: Job) -> Any:
        result: Any = None
        match job:
            case Claim():
                result = sqlite_leases.claim(connection, self._holders, job)
            case Register():
                result = sqlite_leases.register(connection, job)
            case ReleaseAll():
                sqlite_leases.release_all(connection, self._holders.token)
            case Doom():
                result = sqlite_upkeep.doom(connection, job)
            case Purge():
                result = sqlite_upkeep.purge(connection)
            case Shrink():
                result = sqlite_upkeep.shrink(connection)
        return result


def _begun(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _patiently(attempt: Callable[[], bool], until: float, failure: JournalFailed) -> None:
    pause = _FIRST_PAUSE
    while not attempt():
        if time.monotonic() >= until:
            raise failure
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
