"""The bank's place in the supervisor: it hears what shards report, and its grants reach them."""

import asyncio
import time

from config.schema import Config
from pipeline.process.bank import Bank
from pipeline.process.link import Grant, Message, Report
from pipeline.process.process import Process

_EVERY = 0.02  # seconds between two ticks


class Lender:
    """For a daemon of several shards; with one, the limits are that shard's own. Follows the crew. `run` keeps time
    for the bank until it is cancelled."""

    def __init__(self, config: Config) -> None:
        self._processes: dict[int, Process] = {}  # by seat
        self._bank = Bank(config, time.monotonic(), self._send)

    def configure(self, config: Config) -> None:
        """Before the shards have it."""
        self._bank.configure(config, time.monotonic())

    def joined(self, process: Process) -> None:
        if process.shard is not None:
            self._processes[process.seat] = process
            self._bank.joined(process.seat, process.shard, time.monotonic())

    def heard(self, process: Process, message: Message) -> None:
        if isinstance(message, Report):
            self._bank.report(process.seat, message, time.monotonic())

    def gone(self, process: Process) -> None:
        if self._processes.get(process.seat) is process:
            del self._processes[process.seat]
            self._bank.gone(process.seat, time.monotonic())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self._bank.tick(time.monotonic())

    def _send(self, seat: int, grant: Grant) -> None:
        self._processes[seat].send(grant)
