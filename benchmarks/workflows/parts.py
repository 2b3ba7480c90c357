"""The measurements. Each is run in a process of its own and returns what it found as numbers."""

import asyncio
import itertools
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
from typing import Any

import msgspec

from benchmarks.workflows.bench import Bench, chain, many, resident, running
from benchmarks.workflows.kinds import HELD, STAMPS
from pipeline.workflow.checking import examine
from pipeline.workflow.ports import Asking
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.source import read
from workers.base import ChatMessage, Parameters

Figures = dict[str, float]

AT_ONCE = 100
_STEPS = 20


def large(steps: int, asked: str = "") -> str:
    """A definition as people write them: each step after two of those before it. `asked` stands behind each
    reference."""
    rng = random.Random(steps)
    lines = ["name: large", "inputs: {text: {type: string}}", "steps:"]
    for n in range(steps):
        earlier = rng.sample(range(max(0, n - 50), n), k=min(2, n))
        said = " ".join(f"{{{{ steps.s{one}.text{asked} }}}}" for one in earlier) or "{{ inputs.text }}"
        lines += [f"  - id: s{n}", "    type: llm", "    route: echo", f"    prompt: 'Go on from {said}'"]
        lines += ["    temperature: 0.2", "    retry: {max_attempts: 3}"]
    return "\n".join(lines)


async def validated() -> Figures:
    """As the daemon does it when a definition comes in."""
    filtered = 1000 * min(_examined(large(10_000, " | upper")) for _ in range(3))
    found: Figures = {"validate_filters_ms": filtered}
    for steps in (1_000, 10_000):
        text = large(steps)
        found[f"validate_{steps}_ms"] = 1000 * min(_examined(text) for _ in range(5))
    return found


def _examined(text: str) -> float:
    """Seconds of CPU: it is one thread's work, and waits for nothing."""
    began = time.process_time()
    source = read(text)
    examined = examine(source, others={}, catalog=None, kinds=())
    took = time.process_time() - began
    assert not source.faults, source.faults[:3]
    assert examined.plan is not None, examined.faults[:3]
    return took


async def _cpu_ms(work: Callable[[], Awaitable[object]]) -> float:
    began = time.process_time()
    await work()
    return 1000 * (time.process_time() - began)


async def steps(kind: str, runs: int = 300) -> Figures:
    """CPU of all threads for each step, less that of the same prompts without a workflow."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            prompts = IngressPrompts(bench.pipeline.ingress)
            workflow = await bench.register(chain(_STEPS))

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

            await many(AT_ONCE, AT_ONCE, lambda: bench.run(workflow))  # to be warm
            bare, whole = [], []
            for _ in range(3):
                bare.append(await _cpu_ms(lambda: many(runs, AT_ONCE, alone)) / runs / _STEPS)
                whole.append(await _cpu_ms(lambda: many(runs, AT_ONCE, lambda: bench.run(workflow))) / runs / _STEPS)
            one, all_ = statistics.median(bare), statistics.median(whole)
            return {"prompt_ms": one, "step_ms": all_, "overhead_ms": all_ - one}


async def throughput(kind: str, runs: int = 3000) -> Figures:
    """Of a workflow that is registered, and of one whose definition comes with every request."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            registered = await bench.register(chain(5))
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(registered))
            return {
                "runs_per_s": await _per_s(bench, registered, runs),
                "inline_per_s": await _per_s(bench, chain(5), runs // 3),
            }


async def _per_s(bench: Bench, workflow: str | dict[str, Any], runs: int) -> float:
    began = time.perf_counter()
    states = await many(runs, AT_ONCE, lambda: bench.run(workflow))
    assert set(states) == {"completed"}, states
    return runs / (time.perf_counter() - began)


async def turns(kind: str, runs: int = 1500) -> Figures:
    """How long others wait for the event loop while so many runs at once go through the engine: each of its turns."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            workflow = await bench.register(chain(5))
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(workflow))
            clock = _Turns()
            await many(runs, AT_ONCE, lambda: bench.run(workflow))
            taken, worked = clock.stop()
            longest = {"longest_ms": 1000 * max(taken), "longest_cpu_ms": 1000 * max(worked)}
            return {**longest, "p99_ms": 1000 * sorted(taken)[int(0.99 * len(taken))]}


class _Turns:
    """Looks at the clocks in every turn of the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._looks = [(time.perf_counter(), time.thread_time())]
        self._next = self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks.append((time.perf_counter(), time.thread_time()))
        self._next = self._loop.call_soon(self._look)

    def stop(self) -> tuple[list[float], list[float]]:
        """Of each turn the seconds that it took, and those in which the loop's thread worked."""
        self._next.cancel()
        pairs = list(itertools.pairwise(self._looks))
        return [after[0] - before[0] for before, after in pairs], [after[1] - before[1] for before, after in pairs]


async def ready(kind: str, per_s: int = 200, seconds: float = 10.0) -> Figures:
    """How long a step that could start waits until it does, with so many five-step runs begun each second."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running(kind, Path(folder)) as bench:
            workflow = await bench.register(_stamps(5))
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(workflow))
            STAMPS.clear()
            tasks, began = [], time.perf_counter()
            for n in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
                tasks.append(asyncio.ensure_future(bench.run(workflow)))
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
            held = await bench.register({"name": "held", "steps": [{"id": f"s{n}", "type": "hold"} for n in range(5)]})
            began = time.perf_counter()
            await many(runs, AT_ONCE, lambda: bench.start(held))
            await _until(bench, "steps_executing", 5 * runs)
            return {"mb": (resident() - before) / 1e6, "s": time.perf_counter() - began}


async def waiting(runs: int = 10_000) -> Figures:
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        async with running("sqlite", Path(folder)) as bench:
            await many(AT_ONCE, AT_ONCE, lambda: bench.run(chain(5)))
            before = resident()
            waits = {"name": "waits", "steps": [{"id": "w", "type": "wait", "seconds": 3600}]}
            workflow = await bench.register(waits)
            began = time.perf_counter()
            await many(runs, AT_ONCE, lambda: bench.start(workflow))
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
        while len(HELD) < runs:
            await asyncio.sleep(0.02)
        print("held", flush=True)
        await asyncio.sleep(3600)


PARTS: dict[str, Callable[[], Awaitable[Figures]]] = {
    "validate": validated,
    "steps-memory": lambda: steps("memory"),
    "steps-sqlite": lambda: steps("sqlite"),
    "throughput": lambda: throughput("sqlite"),
    "turns": lambda: turns("sqlite"),
    "ready": lambda: ready("sqlite"),
    "memory": memory,
    "waiting": waiting,
    "resume": resumed,
}


def decoded(line: str) -> Figures:
    return msgspec.json.decode(line, type=Figures)
