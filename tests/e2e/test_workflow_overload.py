"""Runs among far more prompts than there is capacity for: they wait their turn, and what is half done is finished."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from pipeline.workflow.client import WorkflowClient
from pipeline.workflow.states import RunState
from tests.process.daemon import chat, configured, serving

pytestmark = [pytest.mark.alone, pytest.mark.slow]

CONFIG = """
[stages.inference]
concurrency = 8
capacity = 64

[[workers]]
name = "echo"
kind = "echo"
first_token_ms = 20

[[routes]]
name = "echo"
worker = "echo"
"""
CLIENTS = 100
RUNS = 200
SECONDS = 7.0

WORKFLOW = """
name: three
inputs: {n: {type: integer}}
steps:
  - {id: one, type: llm, route: echo, prompt: "run {{ inputs.n }}"}
  - {id: two, type: llm, route: echo, prompt: "{{ one }}"}
  - {id: three, type: llm, route: echo, prompt: "{{ two }}"}
outputs: {said: "{{ three }}"}
"""


async def test_no_half_done_run_is_stranded(tmp_path: Path):
    async with serving(configured(tmp_path, CONFIG)) as daemon:
        statuses: Counter[int] = Counter()
        until = time.monotonic() + SECONDS

        async def client(session: aiohttp.ClientSession) -> None:
            while time.monotonic() < until:
                async with session.post(f"{daemon.address}/v1/chat/completions", json=chat("word " * 50)) as response:
                    await response.read()
                statuses[response.status] += 1

        async with (
            WorkflowClient(daemon.address) as workflows,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            await workflows.register(WORKFLOW)
            clients = [asyncio.ensure_future(client(session)) for _ in range(CLIENTS)]
            await asyncio.sleep(1.0)  # the queues are full
            runs = await asyncio.gather(*(workflows.start("three", {"n": n}) for n in range(RUNS)))
            await asyncio.gather(*clients)
            under_load = [await workflows.run(run.id) for run in runs]
            async with asyncio.timeout(20):
                ended = [await workflows.wait(run.id) for run in runs]
        assert statuses[503] > 2 * statuses[200] > 0  # it was overload
        assert [run.outputs for run in ended] == [{"said": f"run {n}"} for n in range(RUNS)]
        assert {run.state for run in ended} == {RunState.COMPLETED}
        done = sum(run.state is RunState.COMPLETED for run in under_load)
        begun = sum(any(step.state == "completed" for step in run.steps) for run in under_load)
        assert done > 0
        assert begun - done <= 8, (begun, done)  # no more than the worker has places: they were being finished
        metrics = await daemon.metrics()
        assert metrics["headgate_workflow_steps_postponed_total", frozenset()] > 0
        assert metrics["headgate_workflow_runs_total", frozenset({("state", "completed")})] == RUNS
