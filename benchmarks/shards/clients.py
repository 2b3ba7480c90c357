"""Connections of which it is known who accepted them, and load over them."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from random import Random
from typing import NamedTuple

from benchmarks.load.accounting import Attempts
from benchmarks.load.answer import Answer, End
from benchmarks.load.ledger import outcome
from benchmarks.load.wire import Wire
from benchmarks.report.model import Counts
from benchmarks.shards.daemon import accepted

SESSIONS = 10_000
PATIENCE = 10.0  # seconds: an answer that takes longer does not come


class Done(NamedTuple):
    """One request: `acceptor` is the shard whose connection it was sent on, None where that is not known."""

    session: str
    acceptor: int | None
    answer: Answer

    @property
    def served(self) -> bool:
        return self.answer.end is End.WHOLE

    @property
    def relayed(self) -> bool:
        return self.acceptor is not None and self.answer.shard != str(self.acceptor)

    @property
    def seconds(self) -> float:
        return self.answer.ended - self.answer.sent


class Line:
    """One client with one connection, which it keeps, and makes anew when it is closed. It sends nothing twice:
    a request whose connection is closed has failed."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(f"http://127.0.0.1:{port}/v1", max_connections=1, resend=False)
        self._acceptors: dict[int, int] = {}

    async def ask(self, payload: bytes, session: str, *, stream: bool = False) -> Done:
        before = self._wire.local_ports
        answer = await self._wire.ask(
            payload,
            headers=f"X-Session-Id: {session}\r\n".encode(),
            stream=stream,
            deadline=time.monotonic() + PATIENCE,
            leave=None,
            leave_at=None,
        )
        return Done(session, self._acceptors.get(before[0]) if before else None, answer)

    def learn(self, acceptors: Mapping[int, int]) -> None:
        """Who accepted which connection, by its port here."""
        self._acceptors = {port: acceptors[port] for port in self._wire.local_ports if port in acceptors}

    async def aclose(self) -> None:
        await self._wire.aclose()


class Crowd:
    """So many lines, which send requests of random sessions; `books` has an entry for each answer."""

    def __init__(self, port: int, lines: int, payload: bytes, *, stream: bool = False, seed: int = 1) -> None:
        self.books: list[Done] = []
        self.attempts = Attempts()
        self.counts = Counts()
        self._port = port
        self._lines = [Line(port) for _ in range(lines)]
        self._payload = payload
        self._stream = stream
        self._random = Random(seed)
        self._stop = False

    async def meet(self, shards: Mapping[int, int]) -> None:
        """Connects all lines, and finds out who accepted them."""
        await asyncio.gather(*(self._ask(line) for line in self._lines))
        acceptors = await asyncio.to_thread(accepted, self._port, shards)
        for line in self._lines:
            line.learn(acceptors)
        self.books.clear()

    async def all_ask(self) -> None:
        """Each line again and again, until `stop`."""
        self._stop = False
        await asyncio.gather(*(self._ask_on(line) for line in self._lines))

    def stop(self) -> None:
        self._stop = True

    async def ask_at(self, rate: float, seconds: float) -> None:
        """Poisson arrivals, each taken by a line that is free; one that finds none is not sent."""
        free = list(self._lines)
        tasks: set[asyncio.Task[None]] = set()

        async def one(line: Line) -> None:
            await self._ask(line)
            free.append(line)

        due, end = time.monotonic(), time.monotonic() + seconds
        while due < end:
            due += self._random.expovariate(rate)
            await asyncio.sleep(max(due - time.monotonic(), 0))
            if free:
                task = asyncio.ensure_future(one(free.pop(self._random.randrange(len(free)))))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)

    async def each(self, sessions: Iterable[str]) -> list[Done]:
        """One request for each of these sessions, shared out over the lines."""
        shares: list[list[str]] = [[] for _ in self._lines]
        for number, session in enumerate(sessions):
            shares[number % len(shares)].append(session)
        found = await asyncio.gather(*map(self._each, self._lines, shares))
        return [done for books in found for done in books]

    async def aclose(self) -> None:
        for line in self._lines:
            await line.aclose()

    async def _each(self, line: Line, sessions: Iterable[str]) -> list[Done]:
        return [await self._book(line, session) for session in sessions]

    async def _ask_on(self, line: Line) -> None:
        while not self._stop:
            done = await self._ask(line)
            if done.answer.end is End.UNREACHABLE:
                await asyncio.sleep(0.01)

    async def _ask(self, line: Line) -> Done:
        return await self._book(line, f"s-{self._random.randrange(SESSIONS)}")

    async def _book(self, line: Line, session: str) -> Done:
        self.counts.offered += 1
        done = await line.ask(self._payload, session, stream=self._stream)
        self.books.append(done)
        self.attempts.book(done.answer)
        name = outcome(done.answer)
        setattr(self.counts, name, getattr(self.counts, name) + 1)
        return done
