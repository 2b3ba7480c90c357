"""A run's events over a real connection: all of them, once, and nobody waits for who does not read."""

import asyncio
import json
from typing import NamedTuple

import aiohttp

from pipeline.edge.workflows_events import QUIET_S
from pipeline.workflow.states import RunState
from tests.edge.wire import connected, get
from tests.edge.workflow_server import Site, call, on_site, site
from tests.flows import config
from tests.workflow.served import APPROVE, ASK, GREET

RUN = {"workflow": "greet", "inputs": {"who": "Ada"}}


class Event(NamedTuple):
    number: int
    name: str
    data: dict[str, object]


def parsed(text: str) -> list[Event]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            found.append(Event(int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])))
    return found


async def started(here: Site, client: aiohttp.ClientSession, text: str, inputs: object = None) -> str:
    name = (await call(client, here, "POST", "/v1/workflows", text)).body["name"]
    run_id: str = (await call(client, here, "POST", "/v1/runs", {"workflow": name, "inputs": inputs or {}})).body["id"]
    return run_id


async def events(client: aiohttp.ClientSession, here: Site, run_id: str, query: str = "", **headers: str):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.get(f"{here.url}/v1/runs/{run_id}/events{query}", headers=sent) as answer:
        text = await asyncio.wait_for(answer.text(), 10)
        return answer.status, answer.headers, text


@on_site
async def test_all_events_up_to_the_end(here, client):
    run_id = await started(here, client, GREET, {"who": "Ada"})
    status, headers, text = await events(client, here, run_id)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert text.startswith("retry: 1000\n\n")
    found = parsed(text)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    assert {event.name for event in found} == {"run", "step"}
    assert (found[0].name, found[0].data["kind"], found[0].data["state"]) == ("run", "run", "pending")
    assert (found[-1].data["state"], found[-1].data["outputs"]) == ("completed", {"text": "Hello Ada!"})
    completed = [event.data["path"] for event in found if event.data["kind"] == "completed"]
    assert completed == ["greeting", "loud"]


@on_site
async def test_it_goes_on_where_it_broke_off(here, client):
    run_id = await started(here, client, GREET, {"who": "Ada"})
    all_of_them = parsed((await events(client, here, run_id))[2])
    last = all_of_them[-1].number
    for seen in range(last):
        assert parsed((await events(client, here, run_id, Last_Event_ID=str(seen)))[2]) == all_of_them[seen:]
    assert parsed((await events(client, here, run_id, f"?after={last - 1}"))[2]) == all_of_them[-1:]
    both = await events(client, here, run_id, "?after=1", Last_Event_ID=str(last - 1))
    assert parsed(both[2]) == all_of_them[-1:]
    status, _, text = await events(client, here, run_id, Last_Event_ID=str(last))
    assert (status, text) == (204, "")
    for wrong in ("x", "-1", "1.5", "9" * 30):
        assert (await events(client, here, run_id, Last_Event_ID=wrong))[0] == 400
    assert (await events(client, here, run_id, "?after=x"))[0] == 400
    assert (await events(client, here, run_id, "?since=1"))[0] == 400


async def test_tokens_come_while_a_step_answers():
    conf = config(workers=[{"name": "echo", "kind": "echo", "tokens": 40, "tokens_per_s": 400}])
    async with site(conf) as here, aiohttp.ClientSession() as client:
        run_id = await started(here, client, ASK, {"question": "one two three"})
        found = parsed((await events(client, here, run_id))[2])
        tokens = [event for event in found if event.name == "token"]
        assert len(tokens) > 1
        assert all(event.number == 0 for event in tokens)
        (completed,) = [event.data for event in found if event.data["kind"] == "completed"]
        told = "".join(str(event.data["text"]) for event in tokens)
        assert told
        assert str(completed["value"]).endswith(told)


@on_site
async def test_who_waits_is_told_that_all_is_well(here, client):
    assert QUIET_S == 10.0
    here.edge._workflows.streams._quiet = 0.02
    run_id = await started(here, client, APPROVE)
    await here.workflows.until(run_id, RunState.WAITING)
    async with connected(here.port) as wire:
        await wire.send(get(f"/v1/runs/{run_id}/events"))
        assert (await wire.head()).status == 200
        seen = b""
        while seen.count(b": keep-alive\n\n") < 3:
            seen += await wire.chunk()
        await call(client, here, "POST", f"/v1/runs/{run_id}/signal", {"event": "decided", "payload": "yes"})
        while chunk := await wire.chunk():
            seen += chunk
    assert parsed(seen.decode())[-1].data["state"] == "completed"


@on_site
async def test_a_client_that_leaves_is_forgotten(here, client):
    run_id = await started(here, client, APPROVE)
    async with connected(here.port) as wire:
        await wire.send(get(f"/v1/runs/{run_id}/events"))
        await wire.head()
        assert here.workflows.hub.watchers == 1
        wire.reset()
        await gone(here)


async def gone(here: Site) -> None:
    async with asyncio.timeout(5):
        while here.workflows.hub.watchers:
            await asyncio.sleep(0.005)


@on_site
async def test_a_server_that_goes_ends_streams_in_good_order(here, client):
    run_id = await started(here, client, APPROVE)
    await here.workflows.until(run_id, RunState.WAITING)
    async with connected(here.port) as wire:
        await wire.send(get(f"/v1/runs/{run_id}/events"))
        await wire.head()
        seen = await wire.chunk()
        while b'"waiting"' not in seen:
            seen += await wire.chunk()
        stopping = asyncio.create_task(here.edge.stop())
        assert await wire.chunk() == b""
        assert await wire.closed() == b""
        await asyncio.wait_for(stopping, 5)


@on_site
async def test_a_server_that_leaves_tells_what_there_is(here, client):
    """What it executes until then can still be followed, a stretch at a time."""
    run_id = await started(here, client, APPROVE)
    await here.workflows.until(run_id, RunState.WAITING)
    here.edge._workflows.leave()
    found = parsed((await events(client, here, run_id))[2])
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    assert found


async def test_a_client_that_does_not_read_holds_up_nobody():
    """Its run ends at its own pace, and what it did not take then it gets all the same."""
    big = 40_000
    text = """\
name: many
inputs:
  big: {type: string}
steps:
  - id: each
    type: map
    items: "{{ range(100) | list }}"
    max_concurrency: 4
    steps:
      - id: big
        type: transform
        operation: template
        template: "{{ inputs.big }}"
    result: "{{ index }}"
"""
    async with (
        site() as here,
        aiohttp.ClientSession() as client,
        connected(here.port, receive_buffer=4096) as wire,
    ):
        name = (await call(client, here, "POST", "/v1/workflows", text)).body["name"]
        run = {"workflow": name, "inputs": {"big": "x" * big}}
        run_id = (await call(client, here, "POST", "/v1/runs", run)).body["id"]
        await wire.send(get(f"/v1/runs/{run_id}/events"))
        await wire.head()
        await here.workflows.until(run_id, RunState.COMPLETED)
        seen = ""
        while chunk := await wire.chunk():
            seen += chunk.decode()
        found = [event for event in parsed(seen) if event.number]
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        values = [event.data.get("value") for event in found if str(event.data.get("path", "")).endswith("/big")]
        assert [len(str(value)) for value in values if value] == [big] * 100


@on_site
async def test_a_head_of_a_stream(here, client):
    run_id = await started(here, client, APPROVE)
    async with connected(here.port) as wire:
        await wire.send(get(f"/v1/runs/{run_id}/events", method="HEAD"))
        head = await wire.head()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        await wire.send(get("/v1/workflows"))
        assert (await wire.answer()).status == 200
