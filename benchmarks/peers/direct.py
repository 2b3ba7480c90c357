"""No gateway: the simulated backend alone. What it does, no gateway can do better by much."""

from pathlib import Path

from benchmarks.peers.gateway import Backend, CannotStart, Running, ask
from benchmarks.peers.interrupt import Tick


class Direct:
    name = "direct"
    version = ""

    def prepare(self, tick: Tick) -> None:
        """There is nothing to install."""

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:  # noqa: ARG002 - there is nothing to start
        running = Running(f"{backend.url}/v1", "sim")
        wrong = ask(running)
        if wrong is not None:
            raise CannotStart(f"the backend: {wrong}")
        return running
