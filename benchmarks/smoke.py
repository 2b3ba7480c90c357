"""`make smoke`: a fresh backend, Headgate before it, and two minutes of mixed load that have to add up.

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

SCENARIO = "smoke"
RESULTS = Path("bench-results")


def main(options: Sequence[str]) -> int:
    """The exit status: the generator's, 1 when nothing could be started, 130 after Ctrl-C."""
    _, scenario = reading.read(SCENARIO)
    gateway = Headgate()
    with Interrupt() as interrupt, tempfile.TemporaryDirectory(prefix="headgate-smoke-") as name:
        folder = Path(name)
        try:
            gateway.prepare(interrupt.tick)
            with simulated(scenario.backend or Service(), folder, interrupt.tick) as backend:
                running = gateway.start(backend, folder, interrupt.tick)
                try:
                    return _load(running, backend.url, options, interrupt)
                finally:
                    running.stop()
        except CannotStart as error:
            print(f"smoke: {error}", file=sys.stderr)
            return 1
        except Interrupted:
            return 130


def _load(running: Running, backend: str, options: Sequence[str], interrupt: Interrupt) -> int:
    assert running.server is not None
    RESULTS.mkdir(exist_ok=True)
    target = ["--target", running.base_url, "--model", running.model, "--backend", backend, "--name", "headgate"]
    files = ["--json", str(RESULTS / f"{SCENARIO}.json"), "--html", str(RESULTS / f"{SCENARIO}.html")]
    given = [*target, "--pid", str(running.server.pid), "--check", *files, *options]
    generator = subprocess.Popen([sys.executable, "-m", "benchmarks.load", SCENARIO, *given], start_new_session=True)
    try:
        while generator.poll() is None:
            interrupt.tick()
    except Interrupted:  # it writes its report before it ends
        generator.terminate()
    return generator.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
