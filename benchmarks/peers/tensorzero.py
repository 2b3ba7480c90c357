"""TensorZero's gateway, without its databases."""

from pathlib import Path

from benchmarks.peers.environment import Installed
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


class TensorZero(Installed):
    def __init__(self) -> None:
        super().__init__("tensorzero")

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
