"""What a refusal costs beside the work that it saves: CPU time of the server's processes, in turn, in one run.

`python -m benchmarks.refusals [--quick] [--json FILE]`. Two daemons of the same build, one with its head gate, one
without, each with a free route and one whose only place is taken for as long as the run lasts. Each figure is the
median of five pairs; ratios compare CPU time, because wall-clock time on a shared machine is noise. The requests have
the header fields that the official Python client sends.
"""

import argparse
import asyncio
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection
from typing import NamedTuple

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.bare import TOKENS
from benchmarks.load.answer import Answer, End
from benchmarks.load.wire import Wire
from benchmarks.paired import CONNECTIONS, Figure
from benchmarks.servers import Server, environment, headgate, write_json

CONFIG = f"""
[admission]
head_gate = {{head_gate}}
[[workers]]
name = "json"
kind = "echo"
concurrency = 256
[[workers]]
name = "tick"
kind = "echo"
tokens = {TOKENS}
concurrency = 256
[[workers]]
name = "busy"
kind = "echo"
first_token_ms = 3_600_000
first_delta_timeout_ms = 3_600_000
total_timeout_ms = 3_600_000
concurrency = 1
[[routes]]
name = "json"
worker = "json"
[[routes]]
name = "tick"
worker = "tick"
[[routes]]
name = "busy"
worker = "busy"
wait_budget_ms = 1
deadline_ms = 900_000
"""
FIELDS = {
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "OpenAI/Python 1.99.1",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "1.99.1",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
BODIES = {"200 B": 200, "4 KiB": 4096}
Values = dict[tuple[str, str], list[float]]  # by what was asked and the size of its body


class Kind(NamedTuple):
    """What is asked: of which route, streamed or not, and how often at full length; `head` is header lines."""

    name: str
    route: str
    stream: bool
    requests: int
    refused: bool = False
    head: bytes = b""


ECHO = Kind("accepted, echo, not streamed", "json", stream=False, requests=4000)
STREAM = Kind(f"accepted, {TOKENS} tokens, one a loop tick", "tick", stream=True, requests=500)
_NAMED = b"X-Headgate-Route: busy\r\n"
GATED = Kind("refused at the head gate", "busy", stream=False, requests=20_000, refused=True, head=_NAMED)
ORDINARY = Kind("refused on the ordinary path", "busy", stream=False, requests=6000, refused=True, head=_NAMED)


OVER = ((ECHO, 0.5, 0.25), (STREAM, 0.05, None))  # what a refusal is compared with, how many times that it may be


class Cost(NamedTuple):
    """CPU microseconds of the server for one request, and how many times an accepted unstreamed `echo` of the same
    body that is; one value a pair."""

    name: str
    body: str
    values: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Measured(NamedTuple):
    figures: list[Figure]
    costs: list[Cost]


def body(route: str, *, stream: bool, size: int) -> bytes:
    """A request's body of `size` bytes."""
    fields = {"model": route, "stream": stream, "messages": [{"role": "user", "content": ""}]}
    fields["messages"] = [{"role": "user", "content": "x" * (size - len(msgspec.json.encode(fields)))}]
    return msgspec.json.encode(fields)


@contextmanager
def busy(*, head_gate: bool) -> Iterator[Server]:
    """A daemon whose route `busy` refuses whatever it is asked."""
    with (
        headgate(CONFIG.format(head_gate=str(head_gate).lower())) as server,
        create_connection(("127.0.0.1", server.port)) as holder,
    ):
        payload = body("busy", stream=False, size=200)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"
        holder.sendall(head.format(len(payload)).encode() + payload)
        until = time.monotonic() + 10.0
        while uvloop.run(ask(server.port, ORDINARY, payload, 1))[0].end is not End.REFUSED:
            if time.monotonic() > until:
                raise TimeoutError("the route whose only place is taken goes on to admit")
        yield server


async def ask(port: int, kind: Kind, payload: bytes, count: int) -> list[Answer]:
    """`count` requests, `CONNECTIONS` at a time. One that is admitted to a place that is not free is given up."""
    wire = Wire(f"http://127.0.0.1:{port}/v1", api_key="none", headers=FIELDS)
    left, answers = count, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            deadline = time.monotonic() + (0.5 if kind.refused else 60.0)
            answers.append(
                await wire.ask(
                    payload, headers=kind.head, stream=kind.stream, deadline=deadline, leave=None, leave_at=None
                )
            )

    await asyncio.gather(*(work() for _ in range(min(CONNECTIONS, count))))
    await wire.aclose()
    return answers


def cost(server: Server, kind: Kind, size: int, scale: float) -> float:
    """CPU microseconds of all of the server's processes for one request. Raises RuntimeError where a request got
    another answer than it should."""
    payload, count = body(kind.route, stream=kind.stream, size=size), max(int(kind.requests * scale), 50)
    uvloop.run(ask(server.port, kind, payload, count // 5))  # warm
    gated, before = at_gate(server), server.cpu()
    answers = uvloop.run(ask(server.port, kind, payload, count))
    after = server.cpu()
    expected = End.REFUSED if kind.refused else End.WHOLE
    if wrong := [answer for answer in answers if answer.end is not expected]:
        raise RuntimeError(f"{kind.name}: {len(wrong)} of {len(answers)} requests were not: {wrong[0]}")
    gated = at_gate(server) - gated
    if (
        gated < 0.99 * len(answers) if kind is GATED else gated
    ):  # one that overtakes the end of another is not looked at
        raise RuntimeError(f"{kind.name}: the head gate refused {gated} of {len(answers)} requests")
    return (after - before) / len(answers) * 1e6


def at_gate(server: Server) -> int:
    """How many requests the head gate has refused so far, by the server's own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = re.findall(r"^headgate_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE)
    return sum(int(float(value)) for labels, value in samples if 'route="-"' in labels and 'outcome="shed"' in labels)


def measure(*, quick: bool, say: Callable[[str], None]) -> Measured:
    """Takes about half a minute, `quick` three seconds. `say` is told how far it has come."""
    pairs, scale = (1, 0.02) if quick else (5, 1.0)
    kinds = (ECHO, STREAM, GATED, ORDINARY)
    values: Values = {(kind.name, name): [] for name in BODIES for kind in kinds}
    with busy(head_gate=True) as gated, busy(head_gate=False) as plain:
        for pair in range(pairs):
            for name, size in BODIES.items():
                say(f"pair {pair + 1} of {pairs}, bodies of {name}")
                for kind in kinds:
                    server = plain if kind is ORDINARY else gated
                    values[kind.name, name].append(cost(server, kind, size, scale))
    return Measured(
        [_figure(values, size, *over) for size in BODIES for over in OVER],
        [
            Cost(kind, size, tuple(taken), _ratios(values, size, kind, ECHO.name))
            for (kind, size), taken in values.items()
        ],
    )


def _figure(values: Values, size: str, over: Kind, limit: float, aim: float | None) -> Figure:
    ratios = _ratios(values, size, GATED.name, over.name)
    name = f"{GATED.name} ÷ {over.name}, {size}"
    return Figure(name, statistics.median(ratios), limit, aim, "x", smaller=True, values=ratios)


def _ratios(values: Values, size: str, kind: str, over: str) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(values[kind, size], values[over, size], strict=True))


def show(console: Console, measured: Measured) -> None:
    table = Table(title="What a refusal costs, paired in one run")
    for column in ("figure", "measured", "at most", "aim", "", "all pairs"):
        table.add_column(column, justify="left" if column in ("figure", "all pairs") else "right")
    for f in measured.figures:
        aim = "" if f.aim is None else f"{f.aim:g}"
        spread = "  ".join(f"{value:.3f}" for value in f.values)
        table.add_row(f.name, f"{f.value:.3f} x", f"{f.floor:g}", aim, "met" if f.met else "MISSED", spread)
    console.print(table)
    table = Table(title="CPU of the server for one request")
    for column in ("request", "body", "µs", "÷ echo", "µs, all pairs"):
        table.add_column(column, justify="right" if column in ("µs", "÷ echo") else "left")
    for c in measured.costs:
        spread = "  ".join(f"{value:.1f}" for value in c.values)
        table.add_row(c.name, c.body, f"{c.median:.1f}", f"{statistics.median(c.ratios):.2f} x", spread)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short pair of each: to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("bench-results/refusals.json"), metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    measured = measure(quick=arguments.quick, say=lambda what: console.print(f"measuring: {what}"))
    show(console, measured)
    figures = [f._asdict() | {"met": f.met} for f in measured.figures]
    costs = [c._asdict() | {"median": c.median} for c in measured.costs]
    write_json(arguments.json, {"environment": environment(), "figures": figures, "costs": costs})
    console.print(f"written to {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
