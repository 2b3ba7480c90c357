"""One of two shards is killed under load."""

import asyncio
import os
import signal
import time
from typing import NamedTuple

import uvloop

from benchmarks.load.accounting import compare
from benchmarks.load.scrape import Look, difference, look, settle
from benchmarks.paired import body
from benchmarks.servers import Server, headgate
from benchmarks.shards.clients import Crowd, Done
from benchmarks.shards.daemon import ECHO, Desk, NotReached
from benchmarks.shards.rows import Row
from pipeline.policy.affinity import owner

LINES = 32
KILLED = 1
BEFORE, AFTER = 1.0, 3.0  # seconds of load
_READY_WITHIN = 15.0
_AT_HOME = 400  # sessions that are asked for afterwards


class Kill(NamedTuple):
    """What became of the load around one kill. `others`: failed requests that neither were accepted by the killed
    shard nor belonged to it; `lost`: failed ones that did; `last`: seconds from the kill to the end of the last of
    them; `astray`: sessions that were answered elsewhere than at home, afterwards."""

    others: int
    lost: int
    last: float
    ready: float
    astray: int
    problems: list[str]


def of_a_kill(*, trials: int) -> list[Row]:
    with headgate(ECHO, shards=2) as server:
        kills = [uvloop.run(_kill(server, number)) for number in range(trials)]
    last, ready = [kill.last for kill in kills], [kill.ready for kill in kills]
    problems = [problem for kill in kills for problem in kill.problems]
    lost = sum(kill.lost for kill in kills)
    return [
        Row("a shard killed: failed requests of the other", sum(kill.others for kill in kills), 0, ""),
        Row(
            "a shard killed: until its own had ended", max(last), 1.0, "s", tuple(last), f"{lost} lost" if lost else ""
        ),
        # Its start is Python's: on a busy machine one good one says what it takes.
        Row("a shard killed: until it was ready again", min(ready), 2.0, "s", tuple(ready)),
        Row("a shard killed: sessions that did not come home", sum(kill.astray for kill in kills), 0, ""),
        Row("a shard killed: counts that do not add up", len(problems), 0, "", note="; ".join(problems)),
    ]


async def _kill(server: Server, number: int) -> Kill:
    url = f"http://127.0.0.1:{server.port}/v1"
    async with Desk(server) as desk:
        await desk.until(lambda now: len(now) == 2, _READY_WITHIN, "two shards are not ready")
        before = await look(url)
        shards = await desk.shards()
        crowd = Crowd(server.port, LINES, body("paced", stream=bool(number % 2)), stream=bool(number % 2), seed=number)
        await crowd.meet(shards)
        load = asyncio.ensure_future(crowd.all_ask())
        await asyncio.sleep(BEFORE)
        os.kill(shards[KILLED], signal.SIGKILL)
        killed = time.monotonic()
        try:
            ready = await desk.until(
                lambda now: now.get(KILLED, shards[KILLED]) != shards[KILLED], _READY_WITHIN, "no new shard is ready"
            )
        except NotReached:
            ready = float("inf")
        await asyncio.sleep(max(AFTER - ready, 1.0))
        crowd.stop()
        await load
        books = list(crowd.books)
        at_home = await crowd.each(f"home-{number}" for number in range(_AT_HOME))
        await crowd.aclose()
        problems = _identity(crowd, before, await settle(url))
    failed = [done for done in books if not done.served]
    lost = [done for done in failed if done.acceptor == KILLED or _home(done) == KILLED]
    return Kill(
        others=len(failed) - len(lost),
        lost=len(lost),
        last=max((done.answer.ended - killed for done in lost), default=0.0),
        ready=ready,
        astray=sum(done.answer.shard != str(_home(done)) for done in at_home),
        problems=problems,
    )


def _home(done: Done) -> int:
    return owner(done.session, range(2))


def _identity(crowd: Crowd, before: Look, after: Look) -> list[str]:
    if before.snapshot is None or after.snapshot is None:
        return [f"/metrics could not be read: {before.why or after.why}"]
    return compare(crowd.counts, crowd.attempts, difference(before.snapshot, after.snapshot)).problems
