from pipeline.adapters.journals.sqlite import SqliteJournal
import asyncio, itertools, random, time
from typing import Any
import pytest
from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.errors import *
from pipeline.workflow.history import fold
from pipeline.workflow.journal import *
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import branch, definition, llm, step
from tests.workflow.engine.lab import Gate, fails, flaky, lab, Lab, section, bundle_of

QUICK = {"initial_delay_ms": 0, "max_attempts": 4}

def world():
    other = definition(
        llm("q", "fail"), llm("ok", "fine"), step("wait", "pause", seconds=0.001), llm("r", "{{ ok }}", depends_on=["pause"]),
        name="other", on_failure="continue", outputs={"o": "{{ r }}", "lost": "{{ q.x }}"})
    return {"other": other}, definition(
        step("workflow", "sub", workflow="other", timeout_seconds=5),
        step("parallel", "p", retry=QUICK, max_concurrency=2, timeout_seconds=5, steps=[
            llm("a", "A"), step("map", "m", items=[1, 2, 3], max_concurrency=2, steps=[llm("i", "flaky", retry=QUICK), llm("k", "{{ i }}{{ item }}"), step("wait", "w", seconds=0.001)], result="{{ k }}"),
            llm("c", "flaky2", depends_on=["m"]),
            llm("t", "fail", on_failure="fallback", fallback={"x": 1}),
            step("loop", "l", max_iterations=4, variables={"n": 0}, until="n == 3", steps=[llm("add", "{{ n + 1 }}", output="n"), step("wait", "w", seconds=0.001)]),
        ]),
        branch("way", ("steps.p.n == 3", ["y"]), default="x"), llm("x", "X"), llm("y", "Y"),
        step("reduce", "r", items="{{ p.m }}", initial="", steps=[llm("j", "{{ accumulator }}{{ item }}"), step("wait", "w", seconds=0), llm("jj", "{{ j }}")], depends_on=["sub"]),
        llm("z", "{{ x }}{{ y }}{{ r }}{{ sub.o }}{{ p.t.x }}{{ n }}"))

SCRIPT = lambda: {"fail": fails(), "flaky": flaky(1, "f"), "flaky2": flaky(2, "c")}

def ended(entries):
    return {e.path for e in entries if isinstance(e, StepCompleted | StepSkipped)}

async def test_anywhere():
    others, wanted = world()
    async with lab(SCRIPT()) as here:
        run, h = await here.run(wanted, others=others)
        print(run.outputs, run.state, run.error)
        entries = [one.entry for one in await here.journal.entries(run.id)]
    print(len(entries))
    for n in range(1, len(entries)):
        book = Book(); j = MemoryJournal(book=book); await j.open()
        _, lease = await j.create(RunRecord(run.id, "main", "1", run.bundle, RunState.PENDING, run.created_at, run.created_at, inputs={}), bundle_of(wanted, **others), take=True)
        if n > 1: await j.append(lease, entries[1:n])
        await j.aclose()
        async with lab({"fail": fails(), "flaky": lambda c: "f", "flaky2": lambda c: "c"}, book=book) as here:
            again, h2 = await here.end(run.id)
            assert again.state == run.state and again.outputs == run.outputs, (n, again.error)
            assert not ended(entries[:n]) & set(here.began), (n, ended(entries[:n]) & set(here.began))
            assert here.engine._shared.places.in_use == 0

@pytest.mark.parametrize("seed", range(25))
async def test_acts(seed, tmp_path):
    rnd = random.Random(seed)
    others, wanted = world()
    book = Book()
    script = SCRIPT()
    done = []
    run = None
    for life in range(6):
        async with lab(script, journal=SqliteJournal(tmp_path / "w.db", shard=0, synchronous="normal", lease_seconds=10, inline_bytes=64)) as here:
            if run is None:
                run = await here.submit(wanted, others=others)
            for _ in range(rnd.randrange(8)):
                act = rnd.choice(["pause", "resume", "signal", "turn", "turn", "retry"])
                try:
                    if act == "turn":
                        for _ in range(rnd.randrange(40)): await asyncio.sleep(0)
                    elif act == "signal": await here.engine.signal(run, "x", 1)
                    else: await getattr(here.engine, act)(run)
                except Conflict: pass
            if life == 5:
                rec = await here.journal.run(run)
                if rec.state is RunState.PAUSED: await here.engine.resume(run)
                r, h = await here.end(run)
                assert r.state is RunState.PARTIAL, (r.state, r.error)
                assert r.outputs == {"z": "Yf1f2f3fine13"}, r.outputs
                (run_,) = here.engine._runs.all() or [None]
                st = here.engine.stats()
                assert st["steps_executing"] == 0 and st["steps_pending"] == 0 and st["runs_open"] == 0, st
