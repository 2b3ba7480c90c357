"""All gateways, by name."""

from pathlib import Path

from benchmarks.peers.direct import Direct
from benchmarks.peers.gateway import Gateway
from benchmarks.peers.headgate import Headgate
from benchmarks.peers.litellm import LiteLLM
from benchmarks.peers.tensorzero import TensorZero
from benchmarks.peers.vllm_router import VllmRouter


def gateways(headgate_config: Path | None = None) -> dict[str, Gateway]:
    """In the order in which they are measured. `headgate_config`: further settings for Headgate."""
    every: list[Gateway] = [
        Direct(),
        Headgate(headgate_config),
        LiteLLM(),
        VllmRouter(),
        VllmRouter(tuned=True),
        TensorZero(),
    ]
    return {gateway.name: gateway for gateway in every}
