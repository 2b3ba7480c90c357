"""Definitions from strangers: checked within bounds, and not too many at once."""

import asyncio
import threading
import time

import pytest

from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.core.errors import Overloaded
from pipeline.workflow import library
from pipeline.workflow.library import AT_ONCE, Definitions, RegisteredLibrary
from pipeline.workflow.patience import TookTooLong, go_on, until
from pipeline.workflow.plans import Plans
from pipeline.workflow.source import read

STEPS = "".join(
    f"  - {{id: s{at}, type: transform, operation: template, template: '{{{{ {at} }}}}'}}\n" for at in range(200)
)
LONG = f"name: long\nsteps:\n{STEPS}".encode()


@pytest.fixture
def definitions():
    return Definitions(RegisteredLibrary(MemoryJournal()), Plans(), None, {})


async def test_a_definition_that_takes_too_long_is_refused(definitions, monkeypatch):
    assert await definitions.faults(LONG, "yaml") == []
    monkeypatch.setattr(library, "CHECK_S", 0.0)
    (fault,) = await definitions.faults(LONG, "yaml")
    assert "takes too long to check" in fault.message


def test_patience_ends_where_it_was_set():
    go_on()
    with pytest.raises(TookTooLong), until(time.monotonic() - 1):
        go_on()
    go_on()


async def test_only_so_many_are_checked_at_once(definitions, monkeypatch):
    release, at_once, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def slow(*args, **kwargs):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        release.wait(10)
        with lock:
            at_once -= 1
        return read(*args, **kwargs)

    monkeypatch.setattr(library, "read", slow)
    monkeypatch.setattr(library, "WAITING", 3)
    tasks = [asyncio.create_task(definitions.faults(LONG, "yaml")) for _ in range(AT_ONCE + 4)]
    refused, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in refused:
        with pytest.raises(Overloaded):
            await task
    assert len(refused) == 1
    release.set()
    assert [await task for task in tasks if task not in refused] == [[]] * (AT_ONCE + 3)
    assert most == AT_ONCE


@pytest.mark.alone
def test_millions_of_escapes_are_gone_through_quickly():
    text = b'"' + b"\\ud800" * 1_300_000 + b'"'
    before = time.process_time()
    source = read(text, "json")
    assert source.definition is None
    assert time.process_time() - before < 0.6
