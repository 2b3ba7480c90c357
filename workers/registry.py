"""From a worker's section of the configuration to the worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import assert_never

from config.schema import AnyWorker, EchoWorker, ExtractiveWorker, OpenAIWorker
from workers.base import ModelWorker


def build(
    section: AnyWorker,
    *,
    resolve: Callable[[str], str],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], float] = time.time,
) -> ModelWorker:
    """The worker that `section` describes, ready to be asked; it connects to nothing yet.

    `resolve` turns a secret's reference into the secret; what it raises is not caught. `clock` and `sleep` pace workers
    that pace themselves, `now` is the time of day. Each kind's module is imported when the first of that kind is built.
    """
    match section:
        case EchoWorker():
            from workers.echo import Echo  # noqa: PLC0415 - a shard holds in memory only the kinds that it uses

            return Echo(section, clock=clock, sleep=sleep)
        case ExtractiveWorker():
            from workers.extractive import Extractive  # noqa: PLC0415 - as above

            return Extractive(section)
        case OpenAIWorker():
            from workers.openai import OpenAICompatible  # noqa: PLC0415 - as above

            api_key = None if section.api_key is None else resolve(section.api_key)
            return OpenAICompatible(section, api_key=api_key, now=now)
        case _:
            assert_never(section)
