"""vllm-router: as it comes, and with the limits that fit the backend behind it."""

from pathlib import Path

from benchmarks.peers.environment import Installed
from benchmarks.peers.gateway import Backend, Running, bare_environment, launch
from benchmarks.peers.interrupt import Tick
from benchmarks.servers import free_port


class VllmRouter(Installed):
    """`tuned`: at most as many requests at once as the backend has slots; 100 more wait, for 2 s at most."""

    def __init__(self, *, tuned: bool = False) -> None:
        super().__init__("vllm-router-tuned" if tuned else "vllm-router", "vllm-router")
        self._tuned = tuned

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        port, programs = free_port(), self._environment.programs
        place = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", backend.url, "--policy", "round_robin"]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return launch(
            [str(programs / "vllm-router"), *place, *metrics, *self._limits(backend)],
            bare_environment(folder, programs),
            folder / f"{self.name}.log",
            tick,
            base_url=f"http://127.0.0.1:{port}/v1",
            model="sim",
        )

    def _limits(self, backend: Backend) -> list[str]:
        if not self._tuned:
            return []
        slots = str(max(backend.service.slots, 1))
        return ["--max-concurrent-requests", slots, "--queue-size", "100", "--queue-timeout-secs", "2"]
