"""Large values, large bodies, and clients that do not read: nothing of it costs others anything."""

import asyncio
import itertools
import json

import aiohttp
import pytest

from pipeline.edge.workflows_events import SLICE, slices
from pipeline.workflow.events import WATCHERS_OF_RUN
from pipeline.workflow.journal import StepCompleted
from pipeline.workflow.shelf import Seen
from pipeline.workflow.showing import ANSWER_MAX, VALUE_MAX
from pipeline.workflow.states import RunState
from pipeline.workflow.views import Token
from tests.edge.test_workflows_events import gone, parsed, started
from tests.edge.wire import Wire, connected, get
from tests.edge.workflow_server import call, on_site, sites
from tests.workflow.served import APPROVE, GREET

MANY = """\
name: many
inputs:
  big: {type: string}
  times: {type: integer}
steps:
  - id: each
    type: map
    items: "{{ range(inputs.times) | list }}"
    steps:
      - id: big
        type: transform
        operation: template
        template: "{{ inputs.big }}"
    result: "{{ index }}"
  - id: small
    type: transform
    operation: template
    template: "it is {{ inputs.times }}"
outputs:
  text: "{{ steps.small.value }}"
"""


def test_frames_are_cut_into_slices():
    sizes = (0, 1, SLICE - 1, SLICE, SLICE + 1, 5 * SLICE, 7)
    batch = [
        *(Seen(number, StepCompleted(1.0, "a"), b"x" * size) for number, size in enumerate(sizes, 1)),
        Seen(0, Token("a", "hi"), b'{"text":"hi"}'),
    ]
    pieces = list(slices(batch))
    assert max(map(len, pieces)) <= SLICE
    text = b"".join(pieces)
    frames = [b"id: %d\nevent: step\ndata: %b\n\n" % (n, b"x" * size) for n, size in enumerate(sizes, 1)]
    assert text == b"".join(frames) + b'event: token\ndata: {"text":"hi"}\n\n'


@on_site
async def test_large_values_are_shown_one_by_one(here, client):
    big = "x" * (VALUE_MAX + 1)
    run_id = await started(here, client, MANY, {"big": big, "times": 3})
    await here.workflows.until(run_id, RunState.COMPLETED)
    told = await call(client, here, "GET", f"/v1/runs/{run_id}")
    steps = {step["path"]: step for step in told.body["steps"]}
    assert (steps["small"]["value"], steps["small"]["truncated"]) == ("it is 3", False)
    assert told.body["outputs"] == {"text": "it is 3"}
    assert told.body["inputs"]["big"] == big
    large = steps["each[1]/big"]
    assert (large["value"], large["truncated"], large["state"]) == (None, True, "completed")
    assert large["size"] >= len(big)
    for path in ("each[1]/big", "each%5B1%5D%2Fbig"):
        one = await call(client, here, "GET", f"/v1/runs/{run_id}/steps/{path}")
        assert (one.status, one.body["value"], one.body["truncated"]) == (200, big, False)
        assert one.body["path"] == "each[1]/big"
    small = await call(client, here, "GET", f"/v1/runs/{run_id}/steps/small")
    assert small.body == steps["small"]
    missing = await call(client, here, "GET", f"/v1/runs/{run_id}/steps/each[7]/big")
    assert (missing.status, missing.body["error"]["code"]) == (404, "step_not_found")
    other = await call(client, here, "GET", "/v1/runs/another/steps/small")
    assert (other.status, other.body["error"]["code"]) == (404, "run_not_found")
    assert (await call(client, here, "GET", f"/v1/runs/{run_id}/steps/")).status == 404


@on_site
async def test_a_run_with_its_steps_is_bounded(here, client):
    big = "x" * (VALUE_MAX - 1000)
    count = ANSWER_MAX // VALUE_MAX + 20
    run_id = await started(here, client, MANY, {"big": big, "times": count})
    await here.workflows.until(run_id, RunState.COMPLETED)
    async with client.get(f"{here.url}/v1/runs/{run_id}") as answer:
        text = await answer.read()
    assert ANSWER_MAX // 2 < len(text) <= ANSWER_MAX
    run = json.loads(text)
    assert len(run["steps"]) == count + 2
    values = [step["value"] for step in run["steps"] if step["path"].endswith("/big") and not step["truncated"]]
    assert 0 < len(values) < count
    assert set(values) == {big}


@on_site
async def test_a_key_that_is_there_twice_is_refused(here, client):
    await call(client, here, "POST", "/v1/workflows", GREET)
    for body in (
        b'{"workflow": "greet", "inputs": {"who": "Ada"}, "inputs": {"who": "Bob"}}',
        b'{"workflow": "greet", "inputs": {"who": "Ada", "wh\\u006f": "Bob"}}',
        b'{"workflow": "greet", "inputs": {"who": "Ada"}, "metadata": {"a": [{"b": 1, "b": 1}]}}',
    ):
        told = await call(client, here, "POST", "/v1/runs", body, Content_Type="application/json")
        assert (told.status, told.body["error"]["type"]) == (400, "invalid_request_error")
        assert "twice" in told.body["error"]["message"]
    run_id = await started(here, client, APPROVE)
    twice = b'{"event": "decided", "event": "other"}'
    told = await call(client, here, "POST", f"/v1/runs/{run_id}/signal", twice, Content_Type="application/json")
    assert told.status == 400


@pytest.mark.parametrize(
    ("media", "status"),
    [
        ("application/json; charset=utf-8", 201),
        ('application/json; charset="UTF-8"', 201),
        ("application/json; charset=utf-16", 415),
        ("application/json; foo=bar; Charset=latin1", 415),
    ],
)
@on_site
async def test_bodies_are_utf_8(here, client, media, status):
    await call(client, here, "POST", "/v1/workflows", GREET)
    body = b'{"workflow": "greet", "inputs": {"who": "Ada"}}'
    assert (await call(client, here, "POST", "/v1/runs", body, Content_Type=media)).status == status


@on_site
async def test_so_many_watch_a_run_and_no_more(here, client):
    run_id = await started(here, client, APPROVE)
    await here.workflows.until(run_id, RunState.WAITING)
    open_ones = [await client.get(f"{here.url}/v1/runs/{run_id}/events") for _ in range(WATCHERS_OF_RUN)]
    assert {one.status for one in open_ones} == {200}
    told = await call(client, here, "GET", f"/v1/runs/{run_id}/events")
    assert (told.status, told.body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(told.headers["Retry-After"]) > 0
    for one in open_ones:
        one.close()
    await gone(here)
    (await client.get(f"{here.url}/v1/runs/{run_id}/events")).close()
    await gone(here)


@on_site
async def test_who_takes_nothing_loses_the_connection_and_comes_back(here, client):
    here.edge._workflows.streams._stalled = 0.3
    run_id = await started(here, client, MANY, {"big": "x" * 1_000_000, "times": 12})
    await here.workflows.until(run_id, RunState.COMPLETED)
    async with connected(here.port, receive_buffer=4096) as wire:
        await wire.send(get(f"/v1/runs/{run_id}/events"))
        await gone(here)
    assert here.workflows.hub.shelf.size == 0
    found = await all_events(client, here.url, run_id)
    assert [event.number for event in found] == list(range(1, len(found) + 1))


async def test_who_takes_nothing_loses_the_connection_to_another_shard_too(tmp_path):
    async with sites(tmp_path) as (one, other), aiohttp.ClientSession() as client:
        await call(client, one, "POST", "/v1/workflows", MANY)
        for key in itertools.count():
            inputs = {"big": "x" * 1_000_000, "times": 12}
            run = (await call(client, one, "POST", "/v1/runs", {"workflow": "many", "inputs": inputs})).body["id"]
            if one.relay.road(run) is not None:
                break
            assert key < 20
        await other.workflows.until(run, RunState.COMPLETED)
        other.edge._workflows.streams._stalled = 0.3
        async with connected(one.port, receive_buffer=4096) as wire:
            await wire.send(get(f"/v1/runs/{run}/events"))
            await wire.head()
            assert other.workflows.hub.watchers == 1
            await gone(other)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await rest(wire)
        found = await all_events(client, one.url, run)
        assert [event.number for event in found] == list(range(1, len(found) + 1))


async def rest(wire: Wire) -> None:
    while await wire.chunk():
        pass


async def all_events(client: aiohttp.ClientSession, url: str, run_id: str):
    async with client.get(f"{url}/v1/runs/{run_id}/events") as answer:
        return parsed(await asyncio.wait_for(answer.text(), 20))
