"""TensorZero's gateway, without its databases."""

from pathlib import Path

from benchmarks.peers.environment import Environment
from benchmarks.peers.gateway import Backend, Running, bare_environment, launch
from benchmarks.peers.interrupt import Tick

# The package has the gateway as a function, not as a program. It listens on a free port and ends with the process.
_SERVE = """
import signal, sys, tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
print(gateway.base_url, flush=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.pause()
"""
_CONFIG = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.sim]
routing = ["openai"]

[models.sim.providers.openai]
type = "openai"
model_name = "sim"
api_base = "{backend}/v1/"
api_key_location = "none"
"""


class TensorZero:
    name = "tensorzero"

    def __init__(self) -> None:
        self._environment = Environment("tensorzero")

    @property
    def version(self) -> str:
        return self._environment.version

    def prepare(self, tick: Tick) -> None:
        self._environment.prepare(tick)

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        programs = self._environment.programs
        config = folder / "tensorzero.toml"
        config.write_text(_CONFIG.format(backend=backend.url))
        return launch(
            [str(programs / "python"), "-c", _SERVE, str(config)],
            bare_environment(folder, programs) | {"TENSORZERO_DISABLE_PSEUDONYMOUS_USAGE_ANALYTICS": "1"},
            folder / "tensorzero.log",
            tick,
            base_url=None,
            model="tensorzero::model_name::sim",
        )
