"""The workflows of one process, built of a configuration."""

import msgspec
import pytest

from config.schema import Config
from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.core.outcomes import Priority
from pipeline.core.ports import Hooks
from pipeline.wiring import build
from pipeline.wiring.workflows import build_workflows
from pipeline.workflow.errors import DefinitionRefused, JournalFailed
from pipeline.workflow.states import RunState
from pipeline.workflow.views import StartRun

CONFIG = {"workers": [{"name": "w", "kind": "echo"}], "routes": [{"name": "echo", "worker": "w"}]}


def asked(route="echo"):
    step = {"id": "a", "type": "llm", "route": route, "prompt": "hi"}
    return StartRun(definition={"name": "x", "steps": [step]})


@pytest.fixture(name="pipeline")
async def _pipeline():
    pipeline = await build(msgspec.convert(CONFIG, Config), hooks=Hooks())
    await pipeline.start()
    yield pipeline
    await pipeline.aclose()


def sqlite(file):
    return SqliteJournal(file, shard=0, synchronous="normal", lease_seconds=5.0, inline_bytes=4096)


async def test_a_journal_that_cannot_be_opened_is_tried_again(tmp_path, pipeline):
    folder = tmp_path / "later"
    config = msgspec.convert(CONFIG, Config)
    workflows = build_workflows(config, pipeline, journal=sqlite(folder / "w.db"), shard=3)
    with pytest.raises(JournalFailed):
        await workflows.start()
    folder.mkdir()
    await workflows.start()
    run, new = await workflows.service.start(asked(), "-", Priority.NORMAL)
    view = await workflows.service.finished(run.id, "-")
    assert (new, view.state, view.outputs) == (True, RunState.COMPLETED, {"a": "hi"})
    await workflows.stop(0.0)
    await workflows.stop(0.0)


async def test_runs_of_others_are_left_to_them(tmp_path, pipeline):
    config = msgspec.convert(CONFIG, Config)
    wait = StartRun(definition={"name": "x", "steps": [{"id": "a", "type": "wait", "seconds": 0.05}]})
    first = build_workflows(config, pipeline, journal=sqlite(tmp_path / "w.db"))
    await first.start()
    ids = [(await first.service.start(wait, "-", Priority.NORMAL))[0].id for _ in range(2)]
    await first.stop(0.0)
    second = build_workflows(config, pipeline, journal=sqlite(tmp_path / "w.db"), mine=ids[:1].__contains__)
    await second.start()
    watch = await second.service.watching(ids[0], "-")
    assert watch is not None
    async for events in watch:
        if any(event.final for event in events):
            break
    watch.close()
    assert (await second.service.run(ids[0], "-")).state is RunState.COMPLETED
    assert (await second.service.run(ids[1], "-")).state in {RunState.PENDING, RunState.RUNNING, RunState.WAITING}
    await second.stop(0.0)


async def test_routes_follow_the_configuration(pipeline):
    config = msgspec.convert(CONFIG, Config)
    workflows = build_workflows(config, pipeline, journal=MemoryJournal(lease_seconds=5.0))
    await workflows.start()
    with pytest.raises(DefinitionRefused, match="new"):
        await workflows.service.start(asked("new"), "-", Priority.NORMAL)
    renewed = msgspec.convert(CONFIG | {"routes": [{"name": "new", "worker": "w"}]}, Config)
    pipeline.apply(pipeline.prepare(renewed))
    workflows.follow(renewed)
    run, _ = await workflows.service.start(asked("new"), "-", Priority.NORMAL)
    assert (await workflows.service.finished(run.id, "-")).outputs == {"a": "hi"}
    await workflows.stop(0.0)
