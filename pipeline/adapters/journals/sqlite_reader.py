"""The reader's thread."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.adapters.journals.sqlite_database import Database
from pipeline.workflow.errors import JournalFailed

Read = Callable[[sqlite3.Connection], Any]


class Reader:
    """Each reading sees the file at one moment. To be used from one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handle(self, readings: Sequence[Read]) -> list[Any]:
        return [self._one(reading) for reading in readings]

    def close(self) -> None:
        self._database.close()

    def _one(self, reading: Read) -> Any:
        try:
            connection = self._database.get()
            connection.execute("BEGIN")
            try:
                return reading(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            return self._database.failed(error)
        except JournalFailed as error:
            return error
        except Exception as error:  # noqa: BLE001 - of this reading only
            return error
