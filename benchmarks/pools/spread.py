"""Eight replicas with prefix caches: do sessions come home, and does every replica get its share?"""

import itertools
import json
import random
import statistics
import urllib.request
from typing import NamedTuple

import uvloop

from benchmarks.pools.backends import Replicas, simulated
from benchmarks.pools.clients import RUN, Clients, Done, refusals
from benchmarks.rows import Row
from benchmarks.servers import headgate
from benchmarks.service import Service
from pipeline.policy.choice import replica_seed, scores

REPLICAS, SLOTS, SESSIONS, LOAD = 8, 64, 1000, 0.8
TAKES = 2.0  # seconds of a call, on average
_SERVICE = Service(slots=SLOTS, first_token_ms=TAKES * 1000, tokens=8, distribution="lognormal", spread=0.3)


class Call(NamedTuple):
    """One call, as its replica saw it: its request's number, and between which moments it was worked on."""

    replica: int
    number: int
    began: float
    ended: float


class Spread(NamedTuple):
    """One trial. `home` is the share of calls on the replica that their session prefers; `uneven` is the largest load
    of a replica by the mean of all; `busiest` the most calls that any worked on at once."""

    calls: int
    home: float
    load: float
    uneven: float
    busiest: int
    failed: list[Done]


def of_sessions(*, trials: int, seconds: float, warm: float = 4.0) -> list[Row]:
    """`warm` seconds at the beginning of each trial do not count. Where sessions belong depends on the replicas'
    addresses, which are others in each."""
    spreads = [_trial(seconds, warm) for _ in range(trials)]
    home, uneven = [100.0 * spread.home for spread in spreads], [spread.uneven for spread in spreads]
    load = statistics.mean([spread.load for spread in spreads])
    failed = [one for spread in spreads for one in spread.failed]
    return [
        Row(
            "sessions: calls on their preferred replica",
            statistics.median(home),
            "%",
            least=95.0,
            note=f"{sum(spread.calls for spread in spreads)} calls at {load:.0%} load; "
            + ", ".join([f"{one:.1f}" for one in home]),
        ),
        Row(
            "sessions: max ÷ mean load of a replica",
            statistics.median(uneven),
            most=1.25,
            note=f"{', '.join([f'{one:.3f}' for one in uneven])}; "
            f"{max(spread.busiest for spread in spreads)} of {SLOTS} slots at the busiest moment",
        ),
        Row("sessions: failed requests", len(failed), most=0, note=refusals(failed)),
    ]


def _trial(seconds: float, warm: float) -> Spread:
    with simulated(_SERVICE, replicas=REPLICAS) as replicas:
        config = replicas.config(concurrency=REPLICAS * SLOTS, replica_concurrency=SLOTS)
        with headgate(config) as server:
            done = uvloop.run(_load(server.port, seconds + warm))
        calls = [call for index, url in enumerate(replicas.urls) for call in _calls(index, url)]
    since = min(call.began for call in calls) + warm
    return _spread(replicas, done, calls, (since, since + seconds))


def _spread(replicas: Replicas, done: list[Done], calls: list[Call], span: tuple[float, float]) -> Spread:
    since, until = span
    sessions = {one.number: one.session for one in done}
    made = [call for call in calls if since <= call.began < until]
    at_home = sum(call.replica == _preferred(sessions[call.number], replicas) for call in made)
    loads = [_load_of(one, calls, span) for one in range(REPLICAS)]
    mean = statistics.mean(loads)
    return Spread(
        calls=len(made),
        home=at_home / len(made),
        load=mean / SLOTS,
        uneven=max(loads) / mean,
        busiest=max(_busiest(one, calls, span) for one in range(REPLICAS)),
        failed=[one for one in done if not one.served],
    )


async def _load(port: int, seconds: float) -> list[Done]:
    chance = random.Random(7)
    idle = TAKES * SESSIONS / (REPLICAS * SLOTS * LOAD) - TAKES  # so that so many are being answered at any time
    clients = Clients(port)
    await clients.sessions(SESSIONS, seconds, lambda: chance.uniform(0.0, 2.0 * idle), stream=False)
    await clients.aclose()
    return clients.done


def _calls(replica: int, url: str) -> list[Call]:
    with urllib.request.urlopen(f"{url}/sim/runs/{RUN}", timeout=30) as answer:
        rows = json.load(answer)["rows"]
    return [Call(replica, row[0], row[2], row[3]) for row in rows if row[2] is not None and row[3] is not None]


def _preferred(session: str, replicas: Replicas) -> int:
    own = scores(session, [replica_seed(name) for name in replicas.names()])
    return own.index(max(own))


def _load_of(replica: int, calls: list[Call], span: tuple[float, float]) -> float:
    """How many calls a replica worked on at once, on average."""
    since, until = span
    held = [min(call.ended, until) - max(call.began, since) for call in calls if call.replica == replica]
    return sum([seconds for seconds in held if seconds > 0.0]) / (until - since)


def _busiest(replica: int, calls: list[Call], span: tuple[float, float]) -> int:
    """The most calls that it worked on at once."""
    since, until = span
    own = [call for call in calls if call.replica == replica and call.ended > since and call.began < until]
    steps = sorted([(call.began, 1) for call in own] + [(call.ended, -1) for call in own])
    return max(itertools.accumulate([step for _, step in steps]), default=0)
