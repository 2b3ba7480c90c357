"""What tests of a shard's parts are given."""

import os

import pytest

from pipeline.observe.lines import LineWriter
from pipeline.process.counters import SharedMemory
from pipeline.process.relay import Relay


@pytest.fixture
def writer(tmp_path):
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer = LineWriter(descriptor)
    yield writer
    writer.close()
    os.close(descriptor)


@pytest.fixture
async def relay(tmp_path):
    """Of a shard that has no others."""
    memory = SharedMemory.create(shards=1, block=8)
    relay = Relay(0, 0, memory, tmp_path)
    yield relay
    await relay.close()
    memory.close()
