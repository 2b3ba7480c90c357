"""Ten reloads and a rolling replacement under load: nobody notices."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import uvloop

from benchmarks.paired import body
from benchmarks.servers import Server, headgate
from benchmarks.shards.clients import Crowd
from benchmarks.shards.daemon import ECHO, Desk, NotReached, in_force
from benchmarks.shards.rows import Row

LINES = 32
RELOADS = 10
_ROUTES = ("json", "tick", "paced")
_REPLACED_WITHIN = 60.0


def of_changes() -> list[Row]:
    with headgate(ECHO, shards=2) as server:
        failed, reasons, problem = uvloop.run(_changed(server))
    note = "; ".join([problem, *reasons] if problem else reasons)
    value = None if problem else float(failed)
    return [Row("ten reloads and a rolling replacement: failed requests", value, 0, "", note=note)]


async def _changed(server: Server) -> tuple[int, list[str], str]:
    """Requests that were not served, as what; and what did not come about."""
    problem = ""
    async with Desk(server) as desk:
        crowds = [
            Crowd(server.port, LINES // 2, body("paced", stream=stream), stream=stream, seed=int(stream))
            for stream in (False, True)
        ]
        loads = [asyncio.ensure_future(crowd.all_ask()) for crowd in crowds]
        try:
            await _reload(server)
            before = await desk.shards()
            server.process.send_signal(signal.SIGUSR2)
            await desk.until(
                lambda now: len(now) == len(before) and not set(now.values()) & set(before.values()),
                _REPLACED_WITHIN,
                "the shards were not replaced",
            )
        except NotReached as error:
            problem = str(error)
        await asyncio.sleep(1.0)
        for crowd in crowds:
            crowd.stop()
        await asyncio.gather(*loads)
        for crowd in crowds:
            await crowd.aclose()
    failed = [done.answer for crowd in crowds for done in crowd.books if not done.served]
    reasons = Counter(f"{answer.status} {answer.code or answer.end} {answer.reason}".strip() for answer in failed)
    return len(failed), [f"{count} times {reason}" for reason, count in reasons.most_common()], problem


async def _reload(server: Server) -> None:
    """Each adds a route, and changes what others say. Raises NotReached when one is not in force on all shards."""
    original = server.config.read_text()
    for number in range(RELOADS):
        added = f'[[routes]]\nname = "new-{number}"\nworker = "json"\ndeadline_ms = {60_000 + number}\n'
        replace_file(server.config, original + added)
        server.process.send_signal(signal.SIGHUP)
        await in_force(server.port, {*_ROUTES, f"new-{number}"})


def replace_file(path: Path, text: str) -> None:
    """In one step, so that nobody reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
