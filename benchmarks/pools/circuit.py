"""A backend that fails for a while, alone: when its circuit opens, and what calls it gets then."""

import asyncio
import time

import uvloop

from benchmarks.pools.backends import failing, seen
from benchmarks.pools.clients import Clients, Done
from benchmarks.rows import Row
from benchmarks.servers import headgate

REQUESTS, THRESHOLD = 50, 5
FIRST, LAST = 8, 26  # calls that fail
OPEN = 0.1  # seconds until the first probe, and until every further one
_EVERY = 0.055  # seconds between two requests: the one comes while the circuit is open, the next may be the probe


def of_the_circuit() -> list[Row]:
    with failing(f"{FIRST}-{LAST}") as replicas:
        pause = round(OPEN * 1000)
        config = replicas.config(
            retries=0,
            breaker_failures=THRESHOLD,
            breaker_rate=0.0,
            breaker_open_ms=pause,
            breaker_max_open_ms=pause,
            health_interval_ms=0,
        )
        with headgate(config) as server:
            done = uvloop.run(_one_by_one(server.port))
        calls = seen(replicas.urls[0])
    return _rows(done, calls)


def _rows(done: list[Done], calls: list[tuple[float, bool]]) -> list[Row]:
    """Each call after the one that opens the circuit is a probe, until one succeeds; it comes too early where the
    failure before it was less than `OPEN` ago."""
    opening = FIRST + THRESHOLD - 1  # the number of that call, from 1
    probes = [
        later - earlier
        for (earlier, failed), (later, _) in zip(calls[opening - 1 :], calls[opening:], strict=False)
        if failed
    ]
    met_open = [one for one in done if one.why == "circuit_open"]
    first_refused = min((one.number for one in met_open), default=None)
    return [
        Row(
            "the circuit: failures in a row until it opens",
            None if first_refused is None else first_refused - (FIRST - 1),
            least=THRESHOLD,
            most=THRESHOLD,
            note=f"{REQUESTS} requests; the backend fails calls {FIRST} to {LAST}",
        ),
        Row(
            "the circuit: calls while it was open",
            sum(gap < OPEN for gap in probes) if probes else None,
            most=0,
            note=f"{len(met_open)} requests answered at once, {len(probes)} probes",
        ),
        Row("the circuit: served again afterwards", sum(one.served for one in done[LAST:]), least=1),
    ]


async def _one_by_one(port: int) -> list[Done]:
    clients = Clients(port)
    due = time.monotonic()
    for _ in range(REQUESTS):
        await clients.ask("one", stream=False)
        due += _EVERY
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
    await clients.aclose()
    return clients.done
