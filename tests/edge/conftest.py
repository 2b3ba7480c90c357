import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that shards run on: its transports differ from asyncio's in when they pause and how they close."""
    return {"uvloop": _loop}


def _loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    loop.run_until_complete(_listen_once(loop))
    return loop


async def _listen_once(loop: asyncio.AbstractEventLoop) -> None:
    """libuv opens a descriptor of its own for the first server; tests that count theirs should not meet it."""
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not wait as long for refused clients as real ones may."""
    monkeypatch.setattr("pipeline.edge.protocol.LINGER_S", 0.2)
