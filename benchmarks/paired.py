"""The paired figures of the data path: Headgate beside a bare aiohttp server, in turn, in one run.

`make bench`, or `python -m benchmarks.paired [--quick] [--json FILE]`. Each figure is the median of five pairs;
ratios compare CPU time, because wall-clock time on a shared machine is noise. What the table means:
`docs/how-to/measure.md`.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.bare import TOKENS
from benchmarks.hops import hop_microseconds
from benchmarks.load.answer import Answer, End
from benchmarks.load.wire import Wire
from benchmarks.servers import Server, bare, environment, headgate, resident_mb, write_json
from benchmarks.service import Service
from benchmarks.simulated.starting import started

CONNECTIONS = 16
STREAMS = 100
RATE = 50.0

ECHO = f"""
[[workers]]
name = "json"
kind = "echo"
[[workers]]
name = "tick"
kind = "echo"
tokens = {TOKENS}
[[workers]]
name = "eight"
kind = "echo"
tokens = {TOKENS}
tokens_per_batch = 8
[[routes]]
name = "json"
worker = "json"
[[routes]]
name = "tick"
worker = "tick"
[[routes]]
name = "eight"
worker = "eight"
"""


class Figure(NamedTuple):
    """One line of the table. `floor` is what must be reached, `aim` what we want; `smaller` figures are limits."""

    name: str
    value: float
    floor: float
    aim: float | None
    unit: str
    smaller: bool
    values: tuple[float, ...] = ()

    @property
    def met(self) -> bool:
        return self.value <= self.floor if self.smaller else self.value >= self.floor


def body(model: str, *, stream: bool) -> bytes:
    message = {"role": "user", "content": "word word"}
    return msgspec.json.encode({"model": model, "messages": [message], "stream": stream})


async def closed_loop(port: int, payload: bytes, *, stream: bool, count: int) -> list[Answer]:
    """`count` requests, `CONNECTIONS` at a time."""
    wire = Wire(f"http://127.0.0.1:{port}/v1", api_key="none")
    left, answers = count, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            answers.append(await wire.ask(payload, stream=stream, deadline=None, leave=None, leave_at=None))

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    await wire.aclose()
    return answers


def cpu_per_request(server: Server, model: str, *, stream: bool, count: int) -> float:
    """CPU microseconds of all of the server's processes for one request."""
    payload = body(model, stream=stream)
    uvloop.run(closed_loop(server.port, payload, stream=stream, count=count // 5))  # warm
    before = server.cpu()
    answers = uvloop.run(closed_loop(server.port, payload, stream=stream, count=count))
    after = server.cpu()
    assert all(answer.end is End.WHOLE for answer in answers), "not every request was served"
    return (after - before) / len(answers) * 1e6


class Pairs(NamedTuple):
    bare: list[float]
    ours: list[float]

    def ratios(self) -> tuple[float, ...]:
        return tuple(b / o for b, o in zip(self.bare, self.ours, strict=True))


def paired(mode: str, *, stream: bool, pairs: int, count: int) -> Pairs:
    """CPU per request of both, in turn, each on a server that stays up for all pairs."""
    result = Pairs([], [])
    with bare(mode) as yardstick, headgate(ECHO) as ours:
        for _ in range(pairs):
            result.bare.append(cpu_per_request(yardstick, mode, stream=stream, count=count))
            result.ours.append(cpu_per_request(ours, mode, stream=stream, count=count))
    return result


async def first_tokens(url: str, model: str, seconds: float) -> list[float]:
    """Times to the first token, in milliseconds, of `STREAMS` streams that start anew whenever they end."""
    payload = body(model, stream=True)
    wire = Wire(f"{url}/v1", api_key="none")
    times: list[float] = []
    until = time.monotonic() + seconds

    async def work(number: int) -> None:
        await asyncio.sleep(number / STREAMS)  # or all would start in the same instant, for ever
        while time.monotonic() < until:
            answer = await wire.ask(payload, stream=True, deadline=None, leave=None, leave_at=None)
            assert answer.end is End.WHOLE, answer.detail
            times.append((answer.first - answer.sent) * 1000)

    await asyncio.gather(*(work(number) for number in range(STREAMS)))
    await wire.aclose()
    return times


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def added_first_token(pairs: int, seconds: float) -> tuple[list[float], list[float]]:
    """What Headgate adds to the time to the first token, p50 and p99 in milliseconds, one of each a pair."""
    p50, p99 = [], []
    # With a slot for everyone, and the first token at once.
    with started(Service(slots=10_000, first_token_ms=0, tokens_per_second=RATE, tokens=50)) as url:
        worker = f'name = "b"\nkind = "openai"\nbase_url = "{url}/v1"\nconcurrency = {STREAMS}\n'
        with headgate(f'[[workers]]\n{worker}[[routes]]\nname = "b"\nworker = "b"\n') as ours:
            for _ in range(pairs):
                direct = uvloop.run(first_tokens(url, "b", seconds))
                through = uvloop.run(first_tokens(f"http://127.0.0.1:{ours.port}", "b", seconds))
                p50.append(percentile(through, 0.5) - percentile(direct, 0.5))
                p99.append(percentile(through, 0.99) - percentile(direct, 0.99))
    return p50, p99


def at_rest() -> tuple[float, float]:
    """A shard's resident megabytes, and the seconds from the command to ready."""
    began = time.monotonic()
    with headgate(ECHO) as server:
        took = time.monotonic() - began
        time.sleep(1.0)
        return resident_mb(server.role("pipeline.process.shard")), took


def knowledge_start() -> float:
    """Seconds from the command to ready where a route needs the knowledge process, models already converted."""
    config = """
[[workers]]
name = "x"
kind = "extractive"
[[collections]]
name = "docs"
[[routes]]
name = "x"
worker = "x"
collection = "docs"
"""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        with headgate(config, data=Path(folder)):
            pass  # converts the model
        began = time.monotonic()
        with headgate(config, data=Path(folder)):
            return time.monotonic() - began


def measure(*, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    pairs, scale = (1, 0.1) if quick else (5, 1.0)
    figures = []

    def ratio(name: str, mode: str, *, stream: bool, count: int, floor: float, aim: float) -> Pairs:
        say(name)
        result = paired(mode, stream=stream, pairs=pairs, count=max(int(count * scale), 100))
        ratios = result.ratios()
        figures.append(Figure(name, statistics.median(ratios), floor, aim, "x", smaller=False, values=ratios))
        return result

    unstreamed = ratio("echo, not streamed ÷ bare aiohttp", "json", stream=False, count=8000, floor=0.65, aim=0.80)
    ratio("echo, a token per loop tick ÷ bare aiohttp", "tick", stream=True, count=800, floor=0.55, aim=0.70)
    ratio("echo, 8 tokens per wake-up ÷ bare aiohttp", "eight", stream=True, count=2500, floor=0.60, aim=0.80)
    say("five hops")
    hops = [hop_microseconds() / b for b in unstreamed.bare]
    figures.append(
        Figure(
            "five hops ÷ a bare aiohttp request",
            statistics.median(hops),
            0.10,
            0.05,
            "x",
            smaller=True,
            values=tuple(hops),
        )
    )
    say("added time to first token")
    p50, p99 = added_first_token(pairs, 1.5 if quick else 4.0)
    figures.append(
        Figure("added time to first token, p50", statistics.median(p50), 2, 1, "ms", smaller=True, values=tuple(p50))
    )
    figures.append(
        Figure("added time to first token, p99", statistics.median(p99), 10, 5, "ms", smaller=True, values=tuple(p99))
    )
    say("memory and start")
    memory, took = at_rest()
    figures.append(Figure("a shard at rest", memory, 80, None, "MB", smaller=True))
    figures.append(Figure("start to ready, a shard", took, 2, None, "s", smaller=True))
    figures.append(Figure("start to ready, with knowledge", knowledge_start(), 4, None, "s", smaller=True))
    return figures


def show(console: Console, figures: list[Figure]) -> None:
    table = Table(title="Data path, paired in one run")
    for column in ("figure", "measured", "at least", "aim", "", "all pairs"):
        table.add_column(column, justify="left" if column in ("figure", "all pairs") else "right")
    for f in figures:
        sign = "≤" if f.smaller else "≥"
        aim = "" if f.aim is None else f"{sign} {f.aim:g}"
        spread = "  ".join(f"{value:.3g}" for value in f.values)
        verdict = "met" if f.met else "MISSED"
        table.add_row(f.name, f"{f.value:.3g} {f.unit}", f"{sign} {f.floor:g}", aim, verdict, spread)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short pair of each: to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("bench-results/paired.json"), metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    figures = measure(quick=arguments.quick, say=lambda what: console.print(f"measuring: {what}"))
    show(console, figures)
    write_json(
        arguments.json, {"environment": environment(), "figures": [f._asdict() | {"met": f.met} for f in figures]}
    )
    console.print(f"written to {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
