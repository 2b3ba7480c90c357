"""What requests have used, on its way from the shards to the supervisor.

A shard tells once a second what has been added, and the rest in the end. The supervisor adds it up, so that it
outlives every shard; with one that is killed, what it had not told yet is lost: its last second.
"""

import asyncio
from collections.abc import Callable

from pipeline.observe.usage import UsageTable
from pipeline.process.link import Message, UsageReport
from pipeline.process.process import Process

EVERY = 1.0  # seconds


class UsageTeller:
    """A shard's side. `send` takes reports to the supervisor, in order and each once."""

    def __init__(self, table: UsageTable, send: Callable[[UsageReport], None]) -> None:
        self._table = table
        self._send = send

    def tell(self) -> None:
        rows = self._table.taken()
        if rows:
            self._send(UsageReport(rows))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            self.tell()


class UsageBooks:
    """The supervisor's side: follows the crew. `table` has what all shards have told since the daemon's start."""

    def __init__(self) -> None:
        self.table = UsageTable()

    def joined(self, process: Process) -> None:
        """Nothing: a new process has used nothing yet."""

    def heard(self, process: Process, message: Message) -> None:  # noqa: ARG002 - a follower's
        if isinstance(message, UsageReport):
            for who, counts in message.rows:
                self.table.of(who).add(counts)

    def gone(self, process: Process) -> None:
        """Nothing: what it has told stays."""
