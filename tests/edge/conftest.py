from collections.abc import Mapping
from typing import Any

import pytest
import uvloop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Any]:
    """The loop that shards run on: its transports differ from asyncio's in when they pause and how they close."""
    return {"uvloop": uvloop.new_event_loop}
