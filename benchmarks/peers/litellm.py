"""LiteLLM's proxy, one process, without retries, database and calls home."""

import secrets
from pathlib import Path

import msgspec

from benchmarks.peers.environment import Installed
from benchmarks.peers.gateway import Backend, Running, bare_environment, launch
from benchmarks.peers.interrupt import Tick
from benchmarks.servers import free_port

_AT_HOME = {  # its lists come from its own package, not from the network
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_MODE": "PRODUCTION",  # reads no .env
    "LITELLM_LOG": "ERROR",
    "HF_HUB_OFFLINE": "1",
}


class LiteLLM(Installed):
    def __init__(self) -> None:
        super().__init__("litellm")

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        port, key = free_port(), f"sk-{secrets.token_hex(16)}"
        config = folder / "litellm.yaml"
        config.write_bytes(msgspec.json.encode(_config(backend)))  # JSON is YAML
        programs = self._environment.programs
        place = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        return launch(
            [str(programs / "litellm"), "--config", str(config), *place],
            bare_environment(folder, programs) | _AT_HOME | {"LITELLM_MASTER_KEY": key},
            folder / "litellm.log",
            tick,
            base_url=f"http://127.0.0.1:{port}/v1",
            model="sim",
            api_key=key,
        )


def _config(backend: Backend) -> dict[str, object]:
    model = {"model": "openai/sim", "api_base": f"{backend.url}/v1", "api_key": "sk-none"}
    return {
        "model_list": [{"model_name": "sim", "litellm_params": model}],
        "litellm_settings": {"num_retries": 0},
    }
