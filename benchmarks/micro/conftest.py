"""What the micro-benchmarks share: an event loop, and a collector that is set as in a shard."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.measure import Measure

GC_THRESHOLD = 25_000  # as in pipeline.process.shard


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(autouse=True, scope="session")
def collector() -> Iterator[None]:
    """Without it pytest's own objects would be looked at while the data path is timed."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    return Measure(benchmark, float(request.config.getoption("benchmark_max_time")))
