import asyncio
from collections.abc import Callable

import pytest
import uvloop

_ON_ASYNCIO_ONLY = {"test_ingest", "test_reading", "test_command"}  # as `headgate ingest` runs


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What serves runs on uvloop, what asks it may run on either: they differ in how a connection ends."""
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": both["asyncio"]} if item.path.stem in _ON_ASYNCIO_ONLY else both
