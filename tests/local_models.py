"""Models served by llama.cpp as the supervisor does it, for tests: real processes, without a daemon."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from config.schema import Config, LlamaCppWorker
from pipeline.process.child import Inheritance
from pipeline.process.counters import State
from pipeline.process.handout import handout
from pipeline.process.keeper import Keeper
from pipeline.process.models import Models
from tests.tiny_llama import CONTEXT, write_model


def tiny_gguf(folder: Path, name: str = "tiny.gguf", **options: Any) -> Path:
    path = folder / name
    write_model(path, **options)
    return path


def section(model: Path, **fields: Any) -> LlamaCppWorker:
    given = {"name": "tiny", "gguf": str(model), "context_tokens": CONTEXT, "threads": 1, **fields}
    return msgspec.convert(given, LlamaCppWorker)


def configured(data_dir: Path, *workers: LlamaCppWorker, **server: Any) -> Config:
    """Beside a worker and a route that are of no interest here."""
    given = {
        "server": {"data_dir": str(data_dir), **server},
        "workers": [{"name": "echo", "kind": "echo"}, *map(msgspec.to_builtins, workers)],
        "routes": [{"name": "echo", "worker": "echo"}],
    }
    return msgspec.convert(given, Config)


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Models]:
    """Its models, begun and not yet loaded; none of their processes is left afterwards."""
    Path(config.server.data_dir).mkdir(exist_ok=True)
    lock = os.open(os.devnull, os.O_RDONLY)
    try:
        with handout(config, []) as handed_out:
            given = Inheritance("", -1, os.getpid(), -1, -1, -1, lock, -1)
            models = Models(given, handed_out, 1.0, lambda: None)
            models.follow(config)
            try:
                yield models
            finally:
                await models.end()
    finally:
        os.close(lock)


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def kept(models: Models, name: str = "tiny") -> Keeper:
    """Its keeper, once it has one."""
    await until(lambda: any(keeper.name == f"model {name}" for keeper in models.keepers))
    return next(keeper for keeper in models.keepers if keeper.name == f"model {name}")


async def loaded(models: Models, name: str = "tiny") -> Keeper:
    keeper = await kept(models, name)
    await until(lambda: keeper.state is State.READY)
    return keeper
