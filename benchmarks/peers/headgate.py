"""Headgate as it comes: one worker, one route, everything else with its default."""

import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.peers.gateway import Backend, CannotPrepare, Running, bare_environment, launch
from benchmarks.peers.interrupt import Tick
from benchmarks.servers import free_port

_OURS = """
[[workers]]
name = "sim"
kind = "openai"
base_url = "http://replaced.invalid/v1"

[[routes]]
name = "sim"
worker = "sim"
"""


class Headgate:
    """`config`: a file of further settings, or their `text`. Where they have workers or routes, ours are left out, the
    first worker gets the backend's address, and the first route is asked for. `shards` serve: one, as the peers are one
    process."""

    name = "headgate"

    def __init__(self, config: Path | None = None, *, text: str = "", shards: int = 1) -> None:
        self._config = config
        self._shards = shards
        self._text = text
        self._model = "sim"

    @property
    def version(self) -> str:
        return metadata.version("headgate")

    def prepare(self, tick: Tick) -> None:  # noqa: ARG002 - nothing here takes long
        """It is installed; this reads the further settings."""
        try:
            further = self._text if self._config is None else self._config.read_text("utf-8")
            tree = tomllib.loads(further)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise CannotPrepare(f"{self._config}: {error}") from error
        self._text = further if {"workers", "routes"} & tree.keys() else _OURS + further
        self._model = _first_route(tomllib.loads(self._text))

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        port = free_port()
        config = folder / "pipeline.toml"
        config.write_text(self._text, "utf-8")
        settings = {
            "HEADGATE__SERVER__HOST": "127.0.0.1",
            "HEADGATE__SERVER__PORT": str(port),
            "HEADGATE__SERVER__DATA_DIR": str(folder / "data"),
            "HEADGATE__SERVER__SHARDS": str(self._shards),
            "HEADGATE__ADMIN__PORT": "0",
            "HEADGATE__WORKERS__0__BASE_URL": f"{backend.url}/v1",
        }
        return launch(
            [sys.executable, "-m", "pipeline.cli", "serve", "--config", str(config)],
            bare_environment(folder) | settings,
            folder / "headgate.log",
            tick,
            base_url=f"http://127.0.0.1:{port}/v1",
            model=self._model,
        )


def _first_route(tree: dict[str, Any]) -> str:
    try:
        return str(tree["routes"][0]["name"])
    except (KeyError, IndexError, TypeError) as error:
        raise CannotPrepare("the further settings have workers, but no route with a name") from error
