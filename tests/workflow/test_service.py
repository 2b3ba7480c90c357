import asyncio
import re

import pytest

from pipeline.core.errors import Forbidden, InvalidRequest
from pipeline.workflow.engine import Elsewhere
from pipeline.workflow.errors import (
    Conflict,
    DefinitionRefused,
    InputRefused,
    UnknownRun,
    UnknownWorkflow,
    VersionTaken,
)
from pipeline.workflow.plans import PLANS_KEPT, Plans
from pipeline.workflow.states import RunState, StepState
from pipeline.workflow.views import StartRun
from tests.flows import config
from tests.workflow.journals import sqlite
from tests.workflow.served import APPROVE, ASK, GREET, served

CALLS = """\
name: outer
steps:
  - id: inner
    type: workflow
    workflow: greet
    inputs: {who: Ada}
outputs:
  text: "{{ steps.inner.value.text }}"
"""


LOOKED_AT = """\
name: nested
steps:
  - id: each
    type: map
    items: [1]
    steps:
      - {id: say, type: llm, route: echo, prompt: "{{ item }}"}
  - {id: any, type: llm, route: "{{ inputs.r or 'echo' }}", prompt: x}
inputs: {r: {default: echo}}
"""


async def test_a_route_that_the_caller_may_not_use_starts_nothing():
    async with served() as found:
        await found.service.register(LOOKED_AT.encode(), "yaml", "-")
        asked = StartRun(workflow="nested")
        with pytest.raises(Forbidden, match=r"'echo', which the step each/say names") as caught:
            await found.service.start(asked, "-", 2, routes=frozenset({"other"}))
        assert (caught.value.status, caught.value.param) == (403, "each/say")
        assert (await found.service.runs("-")).data == []
        for routes in (frozenset({"echo"}), None):
            await found.service.start(asked, "-", 2, routes=routes)


async def test_a_workflow_that_is_not_registered_is_to_be_registered_first():
    async with served() as found:
        with pytest.raises(DefinitionRefused, match="headgate workflow register FILE"):
            await found.service.register(CALLS.encode(), "yaml", "-")


async def test_what_is_registered_can_be_found_and_run():
    async with served() as found:
        view, created = await found.service.register(GREET.encode(), "yaml", "-")
        assert (view.name, view.version, view.description, created) == ("greet", "1", "Says hello.", True)
        assert view.source == GREET
        same, created = await found.service.register(GREET.encode(), "yaml", "-")
        assert (same, created) == (view, False)
        run, created = await found.service.start(StartRun(workflow="greet", inputs={"who": "Ada"}), "-", 2)
        assert created
        ended = await found.until(run.id, RunState.COMPLETED)
        assert ended.outputs == {"text": "Hello Ada!"}
        assert ended.inputs == {"who": "Ada"}
        assert [(step.path, step.state, step.value) for step in ended.steps] == [
            ("greeting", StepState.COMPLETED, "Hello Ada"),
            ("loud", StepState.COMPLETED, "Hello Ada!"),
        ]


async def test_a_version_never_changes_and_the_newest_is_taken():
    async with served() as found:
        register = found.service.register
        await register(GREET.encode(), "yaml", "-")
        with pytest.raises(VersionTaken):
            await register(GREET.replace("Hello", "Bye").encode(), "yaml", "-")
        newer = GREET.replace("name: greet", 'name: greet\nversion: "2"').replace("Hello", "Bye")
        await register(newer.encode(), "yaml", "-")
        assert [(one.name, one.version) for one in await found.service.workflows()] == [("greet", "2"), ("greet", "1")]
        assert (await found.service.workflow("greet", None)).version == "2"
        assert (await found.service.workflow("greet", "1")).source == GREET
        for reference, text in (("greet", "Bye Ada!"), ("greet@1", "Hello Ada!"), ("greet@2", "Bye Ada!")):
            run, _ = await found.service.start(StartRun(workflow=reference, inputs={"who": "Ada"}), "-", 2)
            assert (await found.until(run.id, RunState.COMPLETED)).outputs == {"text": text}


async def test_a_workflow_keeps_those_that_it_calls():
    async with served() as found:
        with pytest.raises(DefinitionRefused, match="greet"):
            await found.service.register(CALLS.encode(), "yaml", "-")
        await found.service.register(GREET.encode(), "yaml", "-")
        await found.service.register(CALLS.encode(), "yaml", "-")
        newer = GREET.replace("name: greet", 'name: greet\nversion: "2"').replace("Hello", "Bye")
        await found.service.register(newer.encode(), "yaml", "-")
        run, _ = await found.service.start(StartRun(workflow="outer"), "-", 2)
        assert (await found.until(run.id, RunState.COMPLETED)).outputs == {"text": "Hello Ada!"}
        again, created = await found.service.register(CALLS.encode(), "yaml", "-")
        assert (again.version, created) == ("1", False)


async def test_all_that_is_wrong_is_said():
    bad = GREET.replace("inputs.who", "inputs.whom").replace("operation", "operatoin", 1)
    async with served() as found:
        assert await found.service.validate(GREET.encode(), "yaml") == []
        faults = await found.service.validate(bad.encode(), "yaml")
        assert len(faults) >= 2
        assert all(fault.line > 0 for fault in faults)
        with pytest.raises(DefinitionRefused) as refused:
            await found.service.register(bad.encode(), "yaml", "-")
        assert list(refused.value.faults) == faults
        assert await found.service.workflows() == []


async def test_a_name_that_the_api_has_itself():
    async with served() as found:
        with pytest.raises(DefinitionRefused, match="'validate'"):
            await found.service.register(GREET.replace("name: greet", "name: validate").encode(), "yaml", "-")


async def test_routes_are_those_that_are_configured():
    async with served() as found:
        faults = await found.service.validate(ASK.replace("route: echo", "route: nowhere").encode(), "yaml")
        assert ["nowhere" in fault.message for fault in faults] == [True]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (StartRun(), InvalidRequest),
        (StartRun(workflow="greet", definition={}), InvalidRequest),
        (StartRun(workflow="nobody"), UnknownWorkflow),
        (StartRun(workflow="greet@9"), UnknownWorkflow),
        (StartRun(workflow="greet"), InputRefused),
        (StartRun(workflow="greet", inputs={"who": 3}), InputRefused),
        (StartRun(definition={"name": "x"}), DefinitionRefused),
    ],
)
async def test_runs_that_cannot_be(asked, error):
    async with served() as found:
        await found.service.register(GREET.encode(), "yaml", "-")
        with pytest.raises(error):
            await found.service.start(asked, "-", 2)
        assert (await found.service.runs("-")).data == []


async def test_an_inline_definition_with_options():
    definition = {
        "name": "inline",
        "steps": [{"id": "a", "type": "transform", "operation": "template", "template": "x"}],
    }
    async with served() as found:
        asked = StartRun(definition=definition, max_concurrency=1, metadata={"order": 17})
        run, _ = await found.service.start(asked, "-", 2)
        ended = await found.until(run.id, RunState.COMPLETED)
        assert (ended.outputs, ended.metadata, ended.workflow) == ({"a": "x"}, {"order": 17}, "inline")


async def test_an_idempotency_key_starts_one_run_for_each_caller():
    async with served() as found:
        await found.service.register(GREET.encode(), "yaml", "-")
        asked = StartRun(workflow="greet", inputs={"who": "Ada"})
        both = await asyncio.gather(*(found.service.start(asked, "ann", 2, "k") for _ in range(2)))
        assert sorted(created for _, created in both) == [False, True]
        (first, second) = (run.id for run, _ in both)
        assert first == second
        await found.until(first, RunState.COMPLETED, caller="ann")
        # What was there first counts, whatever has become of the workflow.
        newer = GREET.replace("name: greet", 'name: greet\nversion: "2"').replace("who:", "other:")
        await found.service.register(newer.replace("inputs.who", "inputs.other").encode(), "yaml", "-")
        assert (await found.service.start(asked, "ann", 2, "k"))[0].id == first
        with pytest.raises(Conflict):
            await found.service.start(StartRun(workflow="greet@1", inputs={"who": "Bob"}), "ann", 2, "k")
        theirs, created = await found.service.start(StartRun(workflow="greet@1", inputs={"who": "Bob"}), "bob", 2, "k")
        assert created
        assert theirs.id != first


async def test_each_caller_sees_its_own_runs():
    async with served() as found:
        mine = await found.start(APPROVE, caller="ann")
        await found.start(GREET, {"who": "Bob"}, caller="bob")
        assert [run.id for run in (await found.service.runs("ann")).data] == [mine]
        service = found.service
        for ask in (service.run, service.pause, service.resume, service.cancel, service.retry, service.watching):
            with pytest.raises(UnknownRun):
                await ask(mine, "bob")
        with pytest.raises(UnknownRun):
            await service.signal(mine, "bob", "decided")
        assert not (await service.run(mine, "ann")).state.final


async def test_pages_and_filters():
    async with served() as found:
        ids = [await found.start(GREET, {"who": str(number)}) for number in range(5)]
        waiting = await found.start(APPROVE)
        for run_id in ids:
            await found.until(run_id, RunState.COMPLETED)
        await found.until(waiting, RunState.WAITING)
        seen, after = [], None
        for _ in range(3):
            page = await found.service.runs("-", workflow="greet", limit=2, after=after)
            seen += [run.id for run in page.data]
            after = page.next
        assert after is None
        assert seen == ids[::-1]
        page = await found.service.runs("-", states=[RunState.WAITING, RunState.PAUSED])
        assert [run.id for run in page.data] == [waiting]


async def test_a_run_through_all_that_can_be_said_to_it():
    async with served() as found:
        service = found.service
        run_id = await found.start(APPROVE)
        await found.until(run_id, RunState.WAITING)
        assert (await service.pause(run_id, "-")).state is RunState.PAUSED
        with pytest.raises(Conflict):
            await service.pause(run_id, "-")
        await service.resume(run_id, "-")
        await found.until(run_id, RunState.WAITING)
        assert (await service.cancel(run_id, "-", "not needed")).state is RunState.CANCELLED
        await service.retry(run_id, "-")
        await service.signal(run_id, "-", "decided", "yes")
        ended = await found.until(run_id, RunState.COMPLETED)
        assert ended.outputs == {"result": "It was yes"}
        with pytest.raises(Conflict):
            await service.resume(run_id, "-")
        assert (await service.finished(run_id, "-")).state is RunState.COMPLETED


async def test_watching_tells_all_up_to_the_end():
    async with served() as found:
        run_id = await found.start(ASK, {"question": "one two three"})
        watch = await found.service.watching(run_id, "-")
        assert watch is not None
        seen = [seen async for batch in watch for seen in batch]
        entries = [one.number for one in seen if one.number]
        assert entries == list(range(1, len(entries) + 1))
        assert seen[-1].entry.state is RunState.COMPLETED
        assert "".join(one.entry.text for one in seen if not one.number) in {"one two three", ""}
        assert await found.service.watching(run_id, "-", entries[-1]) is None
        assert found.hub.watchers == 0


async def test_a_run_of_another_process_is_watched_there(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "first_token_ms": 60_000}])
    journals = [sqlite(tmp_path, shard) for shard in (0, 1)]
    async with served(slow, journal=journals[0]) as first, served(slow, journal=journals[1]) as second:
        run_id = await first.start(ASK, {"question": "x"})
        await first.until(run_id, RunState.RUNNING)
        with pytest.raises(Elsewhere) as error:
            await second.service.watching(run_id, "-")
        assert error.value.holder == first.journal.holder
        watch = await second.service.watching(run_id, "-", here=True, quiet=0.05)
        assert watch is not None
        assert (await anext(watch))[0].number == 1
        await first.service.cancel(run_id, "-")
        seen = [seen async for batch in watch for seen in batch]
        assert seen[-1].entry.state is RunState.CANCELLED


async def test_ids_are_ordered_by_time_or_made_of_the_key():
    async with served() as found:
        ids = [found.service.new_id("a", None) for _ in range(3)]
        assert all(re.fullmatch(r"run_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", one) for one in ids)
        assert len(set(ids)) == 3
        assert found.service.new_id("a", "k") == found.service.new_id("a", "k")
        assert found.service.new_id("a", "k") != found.service.new_id("b", "k")
        assert found.service.new_id("a:", "k") != found.service.new_id("a", ":k")


async def test_plans_are_kept_up_to_a_limit():
    plans = Plans()
    async with served() as found:
        await found.service.register(GREET.encode(), "yaml", "-")
        registered = await found.journal.workflow("greet", None)
        plan = plans.of(registered.bundle)
        assert plans.of(registered.bundle) is plan
        for number in range(2 * PLANS_KEPT):
            plans.keep(str(number), plan)
        assert len(plans._kept) == PLANS_KEPT
        assert plans._steps == PLANS_KEPT * plan.steps
