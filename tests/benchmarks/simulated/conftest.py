"""One simulated backend for all tests of this folder, as it was at the start before each of them."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.benchmarks.backends import Process, Simulated, backend_process, simulated


@pytest.fixture(scope="session")
def process() -> Iterator[Process]:
    with backend_process() as process:
        yield process


@pytest.fixture
async def backend(process: Process) -> AsyncIterator[Simulated]:
    async with simulated(process.urls[0]) as backend:
        await backend.until(lambda state: state["in_flight"] + state["waiting"] == 0)
        await backend.clear()
        yield backend


@pytest.fixture
async def client(backend: Simulated) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=backend.base_url, api_key="none", max_retries=0, timeout=5) as client:
        yield client
