import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tests.servers import TinyLlama, tiny_llama

ON_BOTH_LOOPS = {"test_openai.py", "test_transport.py", "test_echo.py", "test_grpc_backend.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop is what runs in production; asyncio's own loop, for where uvloop is not, ends connections differently."""
    if item.path.name in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLlama]:
    with tiny_llama(tmp_path_factory.mktemp("llama")) as server:
        yield server
