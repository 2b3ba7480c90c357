"""Processes of their own, for the tests: `python -m tests.adapters.journals.child COMMAND PATH [ARGUMENT]`."""

import asyncio
import os
import resource
import sys
from pathlib import Path

from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import StateChanged, StepCompleted
from pipeline.workflow.states import RunState
from tests.adapters.journals.opening import opened
from tests.conformance.journals.journals import BUNDLE, completed, record


def say(*words: object) -> None:
    print(*words, flush=True)


async def append(path: Path, prefix: str) -> None:
    """Appends to eight runs for ever; says which run has how many entries once they are acknowledged."""
    async with opened(path) as journal:

        async def work(run_id: str) -> None:
            _, lease = await journal.create(record(run_id), BUNDLE, take=True)
            while True:
                value = "x" * (3000 if os.urandom(1)[0] < 40 else 20)
                say(run_id, await journal.append(lease, [completed("a", value), completed("b", value)]))

        await asyncio.gather(*(work(f"{prefix}-{i}") for i in range(8)))


async def hold(path: Path, run_id: str) -> None:
    """Holds a run's lease until it is killed."""
    async with opened(path, shard=7) as journal:
        await journal.create(record(run_id), BUNDLE, take=True)
        say(journal.holder)
        await asyncio.Event().wait()


END = StateChanged(1.0, RunState.COMPLETED)


async def claim(path: Path, _: str) -> None:
    """Claims what there is, completes each with one entry, and says which it had."""
    async with opened(path, shard=1) as journal:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        while claimed := await journal.claim_many(5, due=0.0, mine=lambda _: True):
            for run, lease in claimed:
                await journal.append(lease, [StepCompleted(1.0, "done", os.getpid()), END])
                say(run.id)


async def fill(path: Path, _: str) -> None:
    """Writes until the file may not grow, says what it is told, and goes on when it may."""
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        soft = path.stat().st_size + 400_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        written = 1
        try:
            while True:
                written = await journal.append(lease, [completed("a", "x" * 900)])
        except JournalFailed as error:
            say(error)
        say(written, len(await journal.entries("r1")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        say(await journal.append(lease, [completed("b")]))


async def as_nobody(path: Path, what: str) -> None:
    """Tries to open (and write) as somebody without rights, and says what it is told."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        async with opened(path) as journal:
            await journal.create(record(what), BUNDLE, take=False)
    except JournalFailed as error:
        say(error)
    else:
        say("written")


def main() -> None:
    commands = {one.__name__: one for one in (append, hold, claim, fill, as_nobody)}
    name, path, argument = (*sys.argv[1:], "")[:3]
    asyncio.run(commands[name](Path(path), argument))


if __name__ == "__main__":
    main()
