"""What relaying a streamed answer costs: CPU for each chunk, beside a bare forwarder, in turn, in one run.

`python -m benchmarks.relay [--quick] [--json FILE]`, part of `make bench`. 32 streams of 100 chunks 5 ms apart come
from a simulated backend in another process; the same load goes through `benchmarks.forwarder` (aiohttp's server and
client with nothing between them) and through Headgate, all of its processes counted. Ratios count, times are noise.
`--gateways vllm-router,tensorzero,litellm` puts the same load on these as well (see `benchmarks.peers`).
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.load.answer import End
from benchmarks.load.processes import cpu_seconds
from benchmarks.load.wire import Wire
from benchmarks.peers.gateway import Backend, CannotPrepare, CannotStart, Running
from benchmarks.peers.known import gateways
from benchmarks.servers import Server, end, environment, headgate, write_json
from benchmarks.service import Service
from benchmarks.simulated.starting import started

STREAMS = 32
CHUNKS = 100
GAP_MS = 5.0
BOUND = 1.2  # times the bare forwarder

SERVICE = Service(slots=10_000, first_token_ms=GAP_MS, tokens_per_second=1000 / GAP_MS, tokens=CHUNKS)


class Pair(NamedTuple):
    """CPU microseconds for each chunk."""

    bare: float
    ours: float


@contextmanager
def forwarder(backend: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks.forwarder", backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline()))
    finally:
        end(process)


async def load(base_url: str, seconds: float, model: str = "b", key: str = "none") -> int:
    """The load for about so many seconds; how many chunks came of it."""
    wire = Wire(base_url, api_key=key)
    message = {"role": "user", "content": "word word"}
    body = msgspec.json.encode({"model": model, "messages": [message], "stream": True})
    until = time.monotonic() + seconds
    chunks = 0

    async def work(number: int) -> None:
        nonlocal chunks
        await asyncio.sleep(number * GAP_MS / 1000 / STREAMS)  # or all chunks would come in the same instants
        while time.monotonic() < until:
            answer = await wire.ask(body, stream=True, deadline=None, leave=None, leave_at=None)
            assert answer.end is End.WHOLE, answer.detail
            chunks += answer.tokens

    await asyncio.gather(*(work(number) for number in range(STREAMS)))
    await wire.aclose()
    return chunks


def per_chunk(server: Server, seconds: float) -> float:
    url = f"http://127.0.0.1:{server.port}/v1"
    uvloop.run(load(url, 0.5))  # warm
    before = server.cpu()
    chunks = uvloop.run(load(url, seconds))
    return (server.cpu() - before) / chunks * 1e6


def others(names: Sequence[str], seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    """The same of other gateways, one after the other, each before a backend of its own. One that cannot be had is
    left out, and said to be."""
    found: dict[str, float] = {}
    for name in names:
        say(name)
        gateway = gateways()[name]
        try:
            gateway.prepare(_tick)
            with started(SERVICE) as url, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                running = gateway.start(Backend(url, SERVICE), Path(folder), _tick)
                try:
                    found[name] = _cpu(running, seconds)
                finally:
                    running.stop()
        except (CannotPrepare, CannotStart, AssertionError) as error:
            print(f"{name}: not measured: {error}", file=sys.stderr)
    return found


def _cpu(running: Running, seconds: float) -> float:
    key = running.api_key or "none"
    uvloop.run(load(running.base_url, 0.5, running.model, key))
    before = sum(cpu_seconds(pid) for pid in running.pids)
    chunks = uvloop.run(load(running.base_url, seconds, running.model, key))
    return (sum(cpu_seconds(pid) for pid in running.pids) - before) / chunks * 1e6


def _tick() -> None:
    """Nothing interrupts this but Ctrl-C."""


def measure(pairs: int, seconds: float, say: Callable[[str], None]) -> list[Pair]:
    found: list[Pair] = []
    with started(SERVICE) as url:
        worker = f'name = "b"\nkind = "openai"\nbase_url = "{url}/v1"\nconcurrency = 256\n'
        config = f'[[workers]]\n{worker}[[routes]]\nname = "b"\nworker = "b"\n'
        with forwarder(url) as bare, headgate(config) as ours:
            for number in range(pairs):
                say(f"pair {number + 1} of {pairs}")
                found.append(Pair(per_chunk(bare, seconds), per_chunk(ours, seconds)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short pair: shows that it works, says little")
    parser.add_argument("--json", type=Path, default=Path("bench-results/relay.json"), metavar="FILE")
    parser.add_argument("--gateways", default="", metavar="A,B", help="others to be measured beside it")
    given = parser.parse_args()
    console = Console()
    with console.status("") as status:
        seconds = 1.0 if given.quick else 4.0
        found = measure(1 if given.quick else 5, seconds, status.update)
        beside = others([name for name in given.gateways.split(",") if name], seconds, status.update)
    ratios = [pair.ours / pair.bare for pair in found]
    ratio = statistics.median(ratios)
    table = Table("CPU for each relayed chunk", "measured", "at most", "")
    spread = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    table.add_row("Headgate ÷ bare forwarder", spread, f"{BOUND}", "met" if ratio <= BOUND else "MISSED")
    table.add_row("Headgate, µs", f"{statistics.median(pair.ours for pair in found):.0f}", "", "")
    table.add_row("bare forwarder, µs", f"{statistics.median(pair.bare for pair in found):.0f}", "", "")
    for name, microseconds in beside.items():
        table.add_row(f"{name}, µs", f"{microseconds:.0f}", "", "")
    console.print(table)
    write_json(
        given.json,
        {"environment": environment(), "bound": BOUND, "pairs": [list(pair) for pair in found], "others": beside},
    )
    if ratio > BOUND and not given.quick:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
