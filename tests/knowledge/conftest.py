import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test here runs on both loops: what serves runs on uvloop, `headgate ingest` does not."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
