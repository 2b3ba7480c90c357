"""The simulated backend's control interface: all its replicas as one."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import msgspec

from benchmarks.load.fetch import bounded
from benchmarks.service import Service

MOST_BYTES = 256 << 20  # a log of a million rows has 100 MB
LIMIT = 10.0  # seconds for one answer
_POLL = 0.1
_RUN_LIMIT = 60.0  # of a long run's log
_SHOWN = 300  # characters of an answer that is no use

T = TypeVar("T")


class BackendError(Exception):
    """Raised when there is no simulated backend at `url`, it cannot be reached, or it refuses what it was asked."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"simulated backend {url}: {why}")
        self.url = url
        self.why = why


class BackendTally(msgspec.Struct, kw_only=True):
    """What a backend counted; `cancelled` includes `cancelled_waiting`, `busy_seconds` are those that slots were held.

    arrivals = served + cancelled + failed + refused + those that are in flight or wait.
    """

    arrivals: int
    served: int
    cancelled: int
    failed: int
    refused: int
    cancelled_waiting: int
    tokens: int
    busy_seconds: float

    def add(self, other: "BackendTally") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request at a replica. `arrived`, `started`, `ended` in wall-clock seconds; `held` is how long it held a slot,
    0.0 while it runs. `started` is None where it never got one, `ended` while it waits or runs; `outcome` is served,
    cancelled, failed, refused or running."""

    number: int
    arrived: float
    started: float | None
    ended: float | None
    held: float
    outcome: str


class RunLog(msgspec.Struct, kw_only=True):
    """One run at all replicas; `idle` are those that got none of it. `left_out` rows are missing from `rows`; `taken`
    is when it was asked for (wall clock).
    A request of which a replica does not know that it has ended is `running`, also while it waits for a slot."""

    counts: BackendTally
    rows: list[Row]
    left_out: int
    taken: float = 0.0
    idle: list[str] = []

    @property
    def running(self) -> int:
        return sum(row.outcome == "running" for row in self.rows)


class _State(msgspec.Struct):
    service: Service
    replica: int
    replicas: list[str]


class Backend:
    """A connected backend; an async context manager, which closes the connections and not the backend.

    `service` is what each replica does; they are all set alike.
    """

    def __init__(self, session: aiohttp.ClientSession, urls: list[str], service: Service) -> None:
        self.urls = urls
        self.service = service
        self._session = session

    @property
    def whole(self) -> Service:
        """All replicas as one: their slots, and places to wait, together."""
        count, queue = len(self.urls), self.service.queue
        slots = self.service.slots * count
        return msgspec.structs.replace(self.service, slots=slots, queue=None if queue is None else queue * count)

    async def change(self, partial: Mapping[str, Any]) -> None:
        """Set some of each replica's settings, at once. Raises BackendError; then some may have taken them."""
        calls = [self._call("PATCH", f"{url}/sim", _State, json=dict(partial)) for url in self.urls]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            self.service = result.service

    async def settings(self) -> Service | None:
        """As they are now; None where the replicas differ. Raises BackendError."""
        states = await asyncio.gather(*(self._call("GET", f"{url}/sim", _State) for url in self.urls))
        return states[0].service if all(state.service == states[0].service for state in states) else None

    async def run(self, run_id: str) -> RunLog:
        """What became of a run's requests so far. Raises BackendError."""
        taken = time.time()
        logs = await asyncio.gather(
            *(self._call("GET", f"{url}/sim/runs/{run_id}", RunLog, limit=_RUN_LIMIT) for url in self.urls)
        )
        whole = logs[0]
        whole.taken = taken
        whole.idle = [url for url, log in zip(self.urls, logs, strict=True) if not log.counts.arrivals]
        for other in logs[1:]:
            whole.counts.add(other.counts)
            whole.rows += other.rows
            whole.left_out += other.left_out
        return whole

    async def settle(self, run_id: str, limit: float = 5.0) -> RunLog:
        """The same when none of them runs any more, or `limit` seconds have passed. Raises BackendError."""
        until = time.monotonic() + limit
        while True:
            log = await self.run(run_id)
            if not log.running or time.monotonic() >= until:
                return log
            await asyncio.sleep(_POLL)

    async def close(self) -> None:
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self, method: str, url: str, answer: type[T], *, limit: float = LIMIT, json: dict[str, Any] | None = None
    ) -> T:
        return await _call(self._session, method, url, answer, limit=limit, json=json)


async def connect(url: str) -> Backend:
    """The backend that one of its replicas' URLs (with or without `/v1`) belongs to. Raises BackendError."""
    root = _root(url)
    session = aiohttp.ClientSession()
    try:
        return await _connected(session, root)
    except BaseException:
        await session.close()
        raise


def _root(url: str) -> str:
    """Without `/v1`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise BackendError(url, "this is no URL; it should be like http://127.0.0.1:9100")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


async def _connected(session: aiohttp.ClientSession, root: str) -> Backend:
    first = await _call(session, "GET", f"{root}/sim", _State)
    urls = [each.rstrip("/") for each in first.replicas] or [root]
    states = await asyncio.gather(*(_call(session, "GET", f"{each}/sim", _State) for each in urls))
    for each, state in zip(urls, states, strict=True):
        if state.service != first.service:
            raise BackendError(each, f"is not set as {root} is; start the backend again, or set both alike")
    return Backend(session, urls, first.service)


async def _call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    answer: type[T],
    *,
    limit: float = LIMIT,
    json: dict[str, Any] | None = None,
) -> T:
    timeout = aiohttp.ClientTimeout(total=limit)
    try:
        async with session.request(method, url, json=json, timeout=timeout, allow_redirects=False) as response:
            data = await bounded(response, MOST_BYTES)
    except TimeoutError as error:
        raise BackendError(url, f"no answer within {limit:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BackendError(url, f"cannot be reached: {str(error) or type(error).__name__}") from error
    if response.status != 200:
        raise BackendError(url, f"answered {response.status}: {data[:_SHOWN].decode(errors='replace')}")
    try:
        return msgspec.json.decode(data, type=answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackendError(url, f"this is no simulated backend: {error}") from error
