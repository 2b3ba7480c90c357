"""From a worker's section of the configuration to the worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import assert_never

from config.schema import (
    AnthropicWorker,
    AnyWorker,
    CohereWorker,
    EchoWorker,
    ExtractiveWorker,
    GrpcWorker,
    LlamaCppWorker,
    OllamaWorker,
    OpenAIWorker,
    PythonWorker,
)
from workers.base import ModelWorker

_Http = OpenAIWorker | AnthropicWorker | CohereWorker | OllamaWorker


def build(
    section: AnyWorker,
    *,
    resolve: Callable[[str], str],
    replica: int = 0,
    data_dir: Path = Path(),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], float] = time.time,
) -> ModelWorker:
    """One replica of the worker that `section` describes, ready to be asked; it connects to nothing yet.

    `resolve` turns a secret's reference into the secret; what it raises is not caught. `data_dir` is the server's.
    `clock` and `sleep` pace workers that pace themselves, `now` is the time of day. Each kind's module is imported when
    the first of that kind is built: a shard holds in memory only the kinds that it uses.

    Raises `WorkerUnavailable` where a worker cannot be made here.
    """
    match section:
        case EchoWorker():
            from workers.echo import Echo  # noqa: PLC0415 - see above

            return Echo(section, clock=clock, sleep=sleep)
        case ExtractiveWorker():
            from workers.extractive import Extractive  # noqa: PLC0415 - see above

            return Extractive(section)
        case OpenAIWorker() | AnthropicWorker() | CohereWorker() | OllamaWorker():
            return _http(section, section.urls[replica], resolve, now)
        case GrpcWorker():
            from workers.grpc_backend import Grpc  # noqa: PLC0415 - see above

            return Grpc(section, section.targets[replica], resolve=resolve)
        case PythonWorker():
            from workers.python import load  # noqa: PLC0415 - see above

            return load(section)
        case LlamaCppWorker():
            from workers.llama_cpp import LlamaCpp  # noqa: PLC0415 - see above

            return LlamaCpp(section, data_dir)
        case _:
            assert_never(section)


def _http(section: _Http, url: str, resolve: Callable[[str], str], now: Callable[[], float]) -> ModelWorker:
    match section:
        case OpenAIWorker():
            from workers.openai import OpenAICompatible  # noqa: PLC0415 - see above

            return OpenAICompatible(section, url, resolve=resolve, now=now)
        case AnthropicWorker():
            from workers.anthropic import Anthropic  # noqa: PLC0415 - see above

            return Anthropic(section, url, resolve=resolve, now=now)
        case CohereWorker():
            from workers.cohere import Cohere  # noqa: PLC0415 - see above

            return Cohere(section, url, resolve=resolve, now=now)
        case OllamaWorker():
            from workers.ollama import Ollama  # noqa: PLC0415 - see above

            return Ollama(section, url, resolve=resolve, now=now)
        case _:
            assert_never(section)
