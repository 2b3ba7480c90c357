"""Two shards, one journal: a run is spoken to where it is executed, whichever shard was asked."""

import asyncio

import aiohttp
import pytest

from pipeline.workflow.states import RunState
from pipeline.workflow.views import StartRun
from tests.edge.test_workflows_events import events, parsed
from tests.edge.wire import connected, get
from tests.edge.workflow_server import call, run_of, sites
from tests.flows import config
from tests.workflow.served import APPROVE, ASK, GREET

SLOW = [{"name": "echo", "kind": "echo", "first_token_ms": 60_000}]
ASKED = StartRun(workflow="ask", inputs={"question": "x"})


async def test_a_run_is_executed_by_the_shard_that_owns_it(tmp_path):
    async with sites(tmp_path) as both, aiohttp.ClientSession() as client:
        await call(client, both[0], "POST", "/v1/workflows", GREET)
        shards = set()
        for number in range(20):
            body = {"workflow": "greet", "inputs": {"who": str(number)}}
            told = await call(client, both[number % 2], "POST", "/v1/runs", body, Idempotency_Key=f"k{number}")
            assert told.status == 201
            shard = int(told.headers["X-Headgate-Shard"])
            assert both[shard].relay.road(told.body["id"]) is None
            shards.add(shard)
            await both[shard].workflows.until(told.body["id"], RunState.COMPLETED)
            other = both[(number + 1) % 2]
            again = await call(client, other, "POST", "/v1/runs", body, Idempotency_Key=f"k{number}")
            assert (again.status, again.body["id"]) == (200, told.body["id"])
            assert int(again.headers["X-Headgate-Shard"]) == shard
        assert shards == {0, 1}
        assert not any(one.books.opened for one in both)  # none of these was a prompt


async def test_errors_cross_whole(tmp_path):
    async with sites(tmp_path) as both, aiohttp.ClientSession() as client:
        for number in range(8):  # some of each shard's own
            key = f"k{number}"
            told = await call(client, both[0], "POST", "/v1/runs", {"definition": {"name": "x"}}, Idempotency_Key=key)
            assert (told.status, told.body["error"]["code"]) == (422, "invalid_workflow")
            assert told.body["error"]["errors"]
        for shard in (0, 1):
            told = await call(client, both[0], "POST", f"/v1/runs/{run_of(shard)}/pause")
            assert (told.status, told.body["error"]["code"]) == (404, "run_not_found")
            assert told.headers["X-Headgate-Shard"] == str(shard)


@pytest.mark.parametrize("asked", [0, 1])
async def test_who_holds_a_run_is_found_though_another_owns_it(tmp_path, asked):
    async with sites(tmp_path, config(workers=SLOW)) as both, aiohttp.ClientSession() as client:
        holder, run_id = both[0].workflows, run_of(1)
        await call(client, both[0], "POST", "/v1/workflows", ASK)
        await holder.service.start(ASKED, "-", 2, run_id=run_id)
        await holder.until(run_id, RunState.RUNNING)
        watching = asyncio.create_task(events(client, both[asked], run_id))
        async with asyncio.timeout(5):
            while not holder.hub.watchers:
                await asyncio.sleep(0.005)
        told = await call(client, both[asked], "POST", f"/v1/runs/{run_id}/cancel", {"because": "enough"})
        assert (told.status, told.body["state"], told.headers["X-Headgate-Shard"]) == (200, "cancelled", "0")
        status, headers, text = await watching
        assert (status, headers["X-Headgate-Shard"]) == (200, "0")
        found = parsed(text)
        assert (found[-1].data["state"], found[-1].data["because"]) == ("cancelled", "enough")
        assert [event.number for event in found] == list(range(1, len(found) + 1))


async def test_streams_cross_and_end_with_their_client(tmp_path):
    async with sites(tmp_path) as both, aiohttp.ClientSession() as client:
        await call(client, both[0], "POST", "/v1/workflows", APPROVE)
        run_id = run_of(1)
        await both[1].workflows.service.start(StartRun(workflow="approve"), "-", 2, run_id=run_id)
        async with connected(both[0].port) as wire:
            await wire.send(get(f"/v1/runs/{run_id}/events"))
            assert (await wire.head()).headers["x-headgate-shard"] == "1"
            assert both[1].workflows.hub.watchers == 1
        async with asyncio.timeout(5):
            while both[1].workflows.hub.watchers:
                await asyncio.sleep(0.005)
        watching = asyncio.create_task(events(client, both[0], run_id, "?after=1"))
        await both[1].workflows.until(run_id, RunState.WAITING)
        body = {"event": "decided", "payload": "yes"}
        assert (await call(client, both[0], "POST", f"/v1/runs/{run_id}/signal", body)).status == 200
        _, _, text = await watching
        assert parsed(text)[0].number == 2
        assert parsed(text)[-1].data["state"] == "completed"


async def test_a_stream_ends_when_its_shard_dies_and_its_client_can_go_on_elsewhere(tmp_path):
    async with sites(tmp_path) as both, aiohttp.ClientSession() as client:
        await call(client, both[0], "POST", "/v1/workflows", APPROVE)
        run_id = run_of(1)
        await both[1].workflows.service.start(StartRun(workflow="approve"), "-", 2, run_id=run_id)
        await both[1].workflows.until(run_id, RunState.WAITING)
        watching = asyncio.create_task(events(client, both[0], run_id))
        async with asyncio.timeout(5):
            while not both[1].workflows.hub.watchers:
                await asyncio.sleep(0.005)
        for door in list(both[1].relay._doors):  # as if its process had been killed
            door.wire.abort()
        _, _, text = await watching
        seen = parsed(text)[-1].number
        both[0].relay._memory.appoint(1, None)
        watching = asyncio.create_task(events(client, both[0], run_id, Last_Event_ID=str(seen)))
        body = {"event": "decided", "payload": "yes"}
        assert (await call(client, both[0], "POST", f"/v1/runs/{run_id}/signal", body)).status == 200
        status, headers, text = await watching
        assert (status, headers["X-Headgate-Shard"]) == (200, "0")
        rest = parsed(text)
        assert [event.number for event in rest] == list(range(seen + 1, rest[-1].number + 1))
        assert rest[-1].data["state"] == "completed"


async def test_a_process_that_nobody_can_reach(tmp_path):
    """Its runs are watched from the journal; who wants to change one is told to come back."""
    async with sites(tmp_path, config(workers=SLOW)) as both, aiohttp.ClientSession() as client:
        run_id = run_of(0)
        await call(client, both[0], "POST", "/v1/workflows", ASK)
        await both[1].workflows.service.start(ASKED, "-", 2, run_id=run_id)
        await both[1].workflows.until(run_id, RunState.RUNNING)
        both[0].relay._avoided.add(1001)  # as after a connection that broke
        both[0].relay._generation = -1
        told = await call(client, both[0], "POST", f"/v1/runs/{run_id}/pause")
        assert told.status == 503
        assert int(told.headers["Retry-After"]) >= 1
        watching = asyncio.create_task(events(client, both[0], run_id))
        async with asyncio.timeout(5):
            while not both[0].workflows.hub.watchers:
                await asyncio.sleep(0.005)
        await both[1].workflows.service.cancel(run_id, "-")
        found = parsed((await watching)[2])
        assert found[-1].data["state"] == "cancelled"


async def test_a_process_that_goes_lets_others_answer(tmp_path):
    """Its journal is closed before its last connection is."""
    async with sites(tmp_path) as both, aiohttp.ClientSession() as client:
        await call(client, both[0], "POST", "/v1/workflows", APPROVE)
        run_id = run_of(0)
        await both[0].workflows.service.start(StartRun(workflow="approve"), "-", 2, run_id=run_id)
        await both[0].workflows.until(run_id, RunState.WAITING)
        both[0].relay._memory.appoint(0, None)
        both[0].relay.retire()
        both[0].edge.leave()
        await both[0].workflows.engine.stop()
        await both[0].workflows.journal.aclose()
        asked = [
            ("GET", "/v1/workflows", None),
            ("GET", "/v1/workflows/approve", None),
            ("POST", "/v1/workflows", GREET),
            ("POST", "/v1/workflows/validate", GREET),
            ("GET", "/v1/runs?state=waiting", None),
            ("GET", f"/v1/runs/{run_id}", None),
            ("POST", f"/v1/runs/{run_id}/pause", None),
            ("POST", "/v1/runs", {"workflow": "approve"}),
        ]
        for method, path, body in asked:
            told = await call(client, both[0], method, path, body)
            assert (told.status // 100, told.headers["X-Headgate-Shard"]) == (2, "1"), (path, told)
