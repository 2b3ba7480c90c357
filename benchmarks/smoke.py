"""`make smoke`: two minutes of mixed load that have to add up, and seven seconds of ten times the capacity that have to
bring four fifths of what is possible; each with a fresh backend, and a fresh Headgate before it.

`python -m benchmarks.smoke [OPTION]...`; the options are those of `headgate bench`, which this ends like.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import reading
from benchmarks.peers.backend import simulated
from benchmarks.peers.gateway import CannotStart, Running
from benchmarks.peers.headgate import Headgate
from benchmarks.peers.interrupt import Interrupt, Interrupted
from benchmarks.service import Service

SCENARIOS = ("smoke-10x", "smoke")  # the short one first: what it finds is found early
RESULTS = Path("bench-results")


def main(options: Sequence[str]) -> int:
    """The exit status: the generator's, 1 when nothing could be started, 130 after Ctrl-C. What fails ends it."""
    with Interrupt() as interrupt:
        for scenario in SCENARIOS:
            try:
                status = _smoke(scenario, options, interrupt)
            except CannotStart as error:
                print(f"smoke: {error}", file=sys.stderr)
                return 1
            except Interrupted:
                return 130
            if status:
                return status
    return 0


def _smoke(name: str, options: Sequence[str], interrupt: Interrupt) -> int:
    _, scenario = reading.read(name)
    gateway = Headgate()
    with tempfile.TemporaryDirectory(prefix="headgate-smoke-") as folder_name:
        folder = Path(folder_name)
        gateway.prepare(interrupt.tick)
        with simulated(scenario.backend or Service(), folder, interrupt.tick) as backend:
            running = gateway.start(backend, folder, interrupt.tick)
            try:
                return _load(name, running, backend.url, options, interrupt)
            finally:
                running.stop()


def _load(scenario: str, running: Running, backend: str, options: Sequence[str], interrupt: Interrupt) -> int:
    assert running.server is not None
    RESULTS.mkdir(exist_ok=True)
    target = ["--target", running.base_url, "--model", running.model, "--backend", backend, "--name", "headgate"]
    files = ["--json", str(RESULTS / f"{scenario}.json"), "--html", str(RESULTS / f"{scenario}.html")]
    given = [*target, "--pid", str(running.server.pid), "--check", *files, *options]
    generator = subprocess.Popen([sys.executable, "-m", "benchmarks.load", scenario, *given], start_new_session=True)
    try:
        while generator.poll() is None:
            interrupt.tick()
    except Interrupted:  # it writes its report before it ends
        generator.terminate()
    return generator.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
