"""The measurements. Each is run in a process of its own and returns what it found as numbers."""

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from benchmarks.workflows.bench import Bench, chain, many, resident, running
from benchmarks.workflows.kinds import STAMPS
from pipeline.workflow.checking import check
from pipeline.workflow.planning import plan
from pipeline.workflow.ports import Asking
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.reading import read
from workers.base import ChatMessage, Parameters

Figures = dict[str, float]

AT_ONCE = 100
_STEPS = 20


def large(steps: int) -> str:
    """A definition as people write them: each step after two of those before it."""
    rng = random.Random(steps)
    lines = ["name: large", "inputs: {text: {type: string}}", "steps:"]
    for n in range(steps):
        earlier = rng.sample(range(max(0, n - 50), n), k=min(2, n))
        said = " ".join(f"{{{{ steps.s{one}.text }}}}" for one in earlier) or "{{ inputs.text }}"
        lines += [f"  - id: s{n}", "    type: llm", "    route: echo", f"    prompt: 'Go on from {said}'"]
        lines += ["    temperature: 0.2", "    retry: {max_attempts: 3}"]
    return "\n".join(lines)


async def validated() -> Figures:
    found: Figures = {}
    for steps in (1_000, 10_000):
        text = large(steps)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            source = read(text)
            faults = check(source, others={}, catalog=None, kinds=())
            assert source.definition is not None, source.faults[:3]
            assert not faults, faults[:3]
            plan(source.definition, {})
            times.append(time.perf_counter() - began)
        found[f"validate_{steps}_ms"] = 1000 * min(times)
    return found


async def _cpu_ms(work: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await work()
    return 1000 * (time.process_time() - began)


async def steps(kind: str, runs: int = 300) -> Figures:
    """CPU of all threads for each step, less that of the same prompts without a workflow."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            prompts = IngressPrompts(bench.pipeline.ingress)
            definition = chain(_STEPS)

            async def alone() -> None:
                for n in range(_STEPS):
                    message = ChatMessage("user", "five words make one prompt")
                    await prompts.ask(
                        Asking(
                            request_id=f"r{n}",
                            session_id="s",
                            route="echo",
                            messages=(message,),
                            parameters=Parameters(),
                            caller="-",
                            priority=2,
                            underway=True,
                        )
                    )

            await many(AT_ONCE, AT_ONCE, lambda: bench.run(definition))  # to be warm
            bare, whole = [], []
            for _ in range(3):
                bare.append(await _cpu_ms(lambda: many(runs, AT_ONCE, alone)) / runs / _STEPS)
                whole.append(await _cpu_ms(lambda: many(runs, AT_ONCE, lambda: bench.run(definition))) / runs / _STEPS)
            one, all_ = statistics.median(bare), statistics.median(whole)
            return {"prompt_ms": one, "step_ms": all_, "overhead_ms": all_ - one}


async def throughput(kind: str, runs: int = 3000) -> Figures:
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            definition = chain(5)
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(definition))
            began = time.perf_counter()
            states = await many(runs, AT_ONCE, lambda: bench.run(definition))
            assert set(states) == {"completed"}, states
            return {"runs_per_s": runs / (time.perf_counter() - began)}


async def ready(kind: str, per_s: int = 200, seconds: float = 10.0) -> Figures:
    """How long a step that could start waits until it does, with so many five-step runs begun each second."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            definition = _stamps(5)
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(definition))
            STAMPS.clear()
            tasks, began = [], time.perf_counter()
            for n in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
                tasks.append(asyncio.ensure_future(bench.run(definition)))
            await asyncio.gather(*tasks)
            delays = sorted(STAMPS)
            assert len(delays) == 4 * int(per_s * seconds), len(delays)
            return {"p50_ms": 1000 * delays[len(delays) // 2], "p99_ms": 1000 * delays[int(0.99 * len(delays))]}


def _stamps(count: int) -> dict[str, object]:
    """Steps of the type `stamp` (see `kinds`), in a row."""
    first: dict[str, object] = {"id": "s0", "type": "stamp"}
    rest = [
        {"id": f"s{n}", "type": "stamp", "options": {"before": f"{{{{ steps.s{n - 1}.value }}}}"}}
        for n in range(1, count)
    ]
    return {"name": "stamps", "steps": [first, *rest]}


async def memory(runs: int = 1000) -> Figures:
    """Of runs that are all in the midst of a step."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running("sqlite", Path(folder)) as bench:
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(chain(5)))
            before = resident()
            held = {"name": "held", "steps": [{"id": f"s{n}", "type": "hold"} for n in range(5)]}
            began = time.perf_counter()
            await many(runs, AT_ONCE, lambda: bench.start(held))
            await _until(bench, "steps_executing", 5 * runs)
            return {"mb": (resident() - before) / 1e6, "s": time.perf_counter() - began}


async def waiting(runs: int = 10_000) -> Figures:
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running("sqlite", Path(folder)) as bench:
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(chain(5)))
            before = resident()
            definition = {"name": "waits", "steps": [{"id": "w", "type": "wait", "seconds": 3600}]}
            began = time.perf_counter()
            await many(runs, AT_ONCE, lambda: bench.start(definition))
            while bench.workflows.engine.stats()["runs_executing"]:
                await asyncio.sleep(0.05)
            took = time.perf_counter() - began
            return {"mb": (resident() - before) / 1e6, "s": took, "held": float(runs)}


async def _until(bench: Bench, stat: str, least: int, seconds: float = 60.0) -> None:
    until = time.perf_counter() + seconds
    while bench.workflows.engine.stats()[stat] < least:
        if time.perf_counter() > until:
            raise TimeoutError(f"{stat} is {bench.workflows.engine.stats()[stat]}, not {least}")
        await asyncio.sleep(0.02)


INTERRUPTED = {
    "name": "interrupted",
    "steps": [
        *chain(2)["steps"],
        {"id": "held", "type": "hold", "depends_on": ["s1"]},
        {"id": "last", "type": "llm", "route": "echo", "prompt": "{{ steps.s1.text }}", "depends_on": ["held"]},
    ],
    "inputs": {"text": {"type": "string", "default": "five words make one prompt"}},
}


async def resumed(runs: int = 1000) -> Figures:
    """A process with so many runs, each in its third step, is killed; how long until the next one has finished all."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        command = [sys.executable, "-m", "benchmarks.workflows", "--interrupt", folder, "--runs", str(runs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            os.kill(process.pid, signal.SIGKILL)
        os.environ["HEADGATE_BENCH_HOLD"] = "0"
        began = time.perf_counter()
        async with running("sqlite", Path(folder)) as bench:
            await _until(bench, "runs_completed", runs)
            return {"s": time.perf_counter() - began, "resumed": float(bench.workflows.engine.stats()["runs_resumed"])}


async def interrupt(folder: Path, runs: int) -> None:
    """The process that is killed."""
    async with running("sqlite", folder) as bench:
        await many(runs, AT_ONCE, lambda: bench.start(INTERRUPTED))
        await _until(bench, "steps_executing", runs)
        print("held", flush=True)
        await asyncio.sleep(3600)


PARTS: dict[str, Callable[[], Awaitable[Figures]]] = {
    "validate": validated,
    "steps-memory": lambda: steps("memory"),
    "steps-sqlite": lambda: steps("sqlite"),
    "throughput": lambda: throughput("sqlite"),
    "ready": lambda: ready("sqlite"),
    "memory": memory,
    "waiting": waiting,
    "resume": resumed,
}


def decoded(line: str) -> Figures:
    return msgspec.json.decode(line, type=Figures)
