"""The target's own count of requests, read from its `/metrics` where the target is a Headgate."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load.fetch import bounded

LIMIT = 3.0  # seconds for one scrape
MOST_BYTES = 16 * 1024 * 1024
UNROUTED = "-"  # the route under which a Headgate counts what never had one
_POLL = 0.1
_MOST_LINES, _MOST_LINE = 50_000, 2_000
_READ = ("headgate_requests_", "headgate_build_info", "headgate_process_start_time_seconds")
_MOST_COUNT = float(1 << 53)
_OURS = b"headgate_requests_offered_total"

Ending = tuple[str, str, str]  # outcome, stage, reason


class Snapshot(NamedTuple):
    """What `/metrics` said at one moment. By route: `offered`, `open`, and `ended` by outcome, stage and reason.
    `unrouted`: arrived, route not known yet. `started`: when the target's supervisor did, 0.0 where it does not say."""

    version: str
    started: float
    offered: dict[str, int]
    open: dict[str, int]
    ended: dict[str, Counter[Ending]]
    unrouted: int

    @property
    def still_open(self) -> int:
        return sum(self.open.values()) + self.unrouted


class Look(NamedTuple):
    """A snapshot, or `why` there is none; `foreign` where there will never be one: the target is no Headgate."""

    snapshot: Snapshot | None
    why: str = ""
    foreign: bool = False


class _Foreign(ValueError):
    """An answer that no Headgate gives."""


class Difference(NamedTuple):
    """What the target counted between two snapshots. `open_before` requests were under way at the first one and may
    have ended since, and `unrouted_before` of them also been offered; `open_after` are under way at the last one.
    `problems` are sentences; with `comparable` False the counts mean nothing."""

    offered: int
    ended: Counter[Ending]
    open_before: int
    unrouted_before: int
    open_after: int
    comparable: bool
    problems: list[str]


async def snapshot(base_url: str) -> Snapshot | None:
    """None where there is no such page, or it is not a Headgate's; `look` says why."""
    return (await look(base_url)).snapshot


async def look(base_url: str) -> Look:
    """Ask beside `base_url`'s last `/v1`, then at the server's root. Never raises for what the target does."""
    why, foreign = "", True
    timeout = aiohttp.ClientTimeout(total=LIMIT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url in places(base_url):
            try:
                page = await _page(session, url)
                return Look(parse(page.decode()))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                why = why or f"{url}: {str(error) or type(error).__name__}"
                foreign = foreign and isinstance(error, _Foreign)
    return Look(None, why, foreign)


async def settle(base_url: str, limit: float = 5.0) -> Look:
    """Ask until nothing is open at the target, for at most `limit` seconds; the last answer, which tells what is."""
    clock = asyncio.get_running_loop().time
    until = clock() + limit
    last = Look(None, "not asked")
    with suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while True:
                found = await look(base_url)
                if found.snapshot is not None or last.snapshot is None:
                    last = found
                if found.foreign or (found.snapshot is not None and not found.snapshot.still_open):
                    break
                await asyncio.sleep(_POLL)
    return last


def places(base_url: str) -> list[str]:
    """Where the metrics may be, the likeliest first."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    paths = dict.fromkeys((f"{path}/metrics", "/metrics"))
    return [urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in paths]


async def _page(session: aiohttp.ClientSession, url: str) -> bytes:
    """Raises ValueError where the page is none, not ours or too large, and what aiohttp raises."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status >= 500 and response.status != 501:
            raise ValueError(f"answered {response.status}")
        if response.status != 200:
            raise _Foreign(f"answered {response.status}")
        page = await bounded(response, MOST_BYTES)
    if _OURS not in page:
        raise _Foreign("the page is no Headgate's")
    return page


def parse(page: str) -> Snapshot:
    """Raises ValueError when it is not in Prometheus' text format, or without what a Headgate always shows."""
    # The rest is not asked for, and the parser takes a time that grows with the square of a line's length.
    lines = [line for line in page.splitlines() if line.startswith(_READ)]
    if len(lines) > _MOST_LINES or any(len(line) > _MOST_LINE for line in lines):
        raise ValueError("the page has more labels than a Headgate's")
    try:
        return _snapshot("\n".join(lines) + "\n")
    except (KeyError, OverflowError) as error:
        raise ValueError(f"the page is not as a Headgate's: {error!r}") from error


def _snapshot(page: str) -> Snapshot:
    found = Snapshot("", 0.0, {}, {}, {}, 0)
    unrouted: int | None = None
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels, value = sample.labels, sample.value
            if not 0 <= value <= _MOST_COUNT:
                raise ValueError(f"{sample.name} is {value:g}")
            match sample.name:
                case "headgate_requests_offered_total":
                    found.offered[labels["route"]] = int(value)
                case "headgate_requests_open":
                    found.open[labels["route"]] = int(value)
                case "headgate_requests_total":
                    ending = (labels["outcome"], labels["stage"], labels["reason"])
                    found.ended.setdefault(labels["route"], Counter())[ending] += int(value)
                case "headgate_requests_unrouted":
                    unrouted = int(value)
                case "headgate_build_info":
                    found = found._replace(version=labels["version"])
                case "headgate_process_start_time_seconds" if labels["process"] == "supervisor":
                    found = found._replace(started=value)
    if unrouted is None:
        raise ValueError("the page has no headgate_requests_unrouted")
    return found._replace(unrouted=unrouted)


def difference(before: Snapshot, after: Snapshot, model: str | None = None) -> Difference:
    """What came in between. Where the target has a route of the model's name, other routes are others' business and
    left out; requests that never had a route always count."""
    problems = list(_unbalanced(after))
    if _restarted(before, after):
        problems.append(
            "The target was started again during the run, and its counts with it: they cannot be compared with the "
            "client's."
        )
        return Difference(0, Counter(), 0, 0, after.still_open, comparable=False, problems=problems)
    routes = {UNROUTED, model} if model in after.offered else set(after.offered)
    ended: Counter[Ending] = Counter()
    for route in routes:
        ended.update(after.ended.get(route, Counter()))
        ended.subtract(before.ended.get(route, Counter()))
    return Difference(
        offered=sum(after.offered.get(route, 0) - before.offered.get(route, 0) for route in routes),
        ended=Counter({ending: count for ending, count in ended.items() if count}),
        open_before=_open(before, routes),
        unrouted_before=before.unrouted,
        open_after=_open(after, routes),
        comparable=True,
        problems=problems,
    )


def _open(taken: Snapshot, routes: Collection[str | None]) -> int:
    return sum(count for route, count in taken.open.items() if route in routes) + taken.unrouted


def _restarted(before: Snapshot, after: Snapshot) -> bool:
    if before.started and after.started and abs(after.started - before.started) > 0.001:
        return True
    fewer = any(after.offered.get(route, 0) < count for route, count in before.offered.items())
    return fewer or any(
        after.ended.get(route, Counter())[ending] < count
        for route, counts in before.ended.items()
        for ending, count in counts.items()
    )


def _unbalanced(taken: Snapshot) -> Iterator[str]:
    for route, offered in taken.offered.items():
        ended, still = taken.ended.get(route, Counter()).total(), taken.open.get(route, 0)
        if offered != ended + still:
            yield (
                f"The target's own count of route {route!r} does not add up: {offered} offered, but {ended} ended and "
                f"{still} open."
            )
