"""A replica is killed under load, or fails every other call, and a spare is there."""

import asyncio
import json
import random
import urllib.request
from collections.abc import Callable

import uvloop

from benchmarks.pools.backends import Replicas, failing, seen, simulated
from benchmarks.pools.clients import Clients, Done, refusals
from benchmarks.rows import Row
from benchmarks.servers import headgate
from benchmarks.service import Service

_SESSIONS = 60
_THINK = 0.2  # seconds between two requests of a session, on average
_SERVICE = Service(slots=256, first_token_ms=150, tokens_per_second=40, tokens=12, distribution="lognormal")


def of_a_kill(*, trials: int, seconds: float) -> list[Row]:
    """Half of `seconds` before the kill, half after it."""
    books = [_killed(seconds, seed) for seed in range(trials)]
    done = [one for of_one, _ in books for one in of_one]
    failed = [one for one in done if not one.served]
    before = [one for one in failed if not one.answer.tokens]
    told = f"{len(done)} requests; {len(failed) - len(before)} were broken off later"
    return [
        Row(
            "a replica killed: requests that failed before their first delta",
            len(before),
            most=0,
            note="; ".join(filter(None, [told, refusals(before)])),
        ),
        Row("a replica killed: calls under way on it then", min(under_way for _, under_way in books), least=1),
    ]


def _killed(seconds: float, seed: int) -> tuple[list[Done], int]:
    """What every request got, and how many were under way on the replica that was killed."""
    with simulated(_SERVICE, replicas=1, processes=2) as replicas, headgate(replicas.config(concurrency=512)) as server:
        under_way = 0

        def kill() -> None:
            nonlocal under_way
            under_way = _in_flight(replicas)
            replicas.processes[0].kill()

        done = uvloop.run(_load(server.port, seconds, seed, stream=True, halfway=kill))
        return done, under_way


def _in_flight(replicas: Replicas) -> int:
    with urllib.request.urlopen(f"{replicas.urls[0]}/sim", timeout=5) as answer:
        return int(json.load(answer)["in_flight"])


def of_every_other_call(*, seconds: float) -> list[Row]:
    with failing("odd", "none") as replicas, headgate(replicas.config(concurrency=512)) as server:
        done = uvloop.run(_load(server.port, seconds, 1, stream=False))
        there, spare = [seen(url) for url in replicas.urls]
    wrong = sum(failed for _, failed in there)
    told = f"{len(done)} requests; {len(there)} calls there, {len(spare)} of the spare"
    return [
        Row(
            "every other call fails: requests served",
            100.0 * sum(one.served for one in done) / len(done),
            "%",
            least=99.5,
            note="; ".join(filter(None, [told, refusals(done)])),
        ),
        Row("every other call fails: calls that failed", wrong, least=1),
    ]


async def _load(
    port: int, seconds: float, seed: int, *, stream: bool, halfway: Callable[[], None] | None = None
) -> list[Done]:
    chance = random.Random(seed)
    clients = Clients(port)
    load = asyncio.ensure_future(
        clients.sessions(_SESSIONS, seconds, lambda: chance.uniform(0.0, 2.0 * _THINK), stream=stream)
    )
    if halfway is not None:
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(halfway)
    await load
    await clients.aclose()
    return clients.done
