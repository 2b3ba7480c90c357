"""Every endpoint of workflows and runs, over a real connection."""

import hashlib

import aiohttp
import pytest

from pipeline.workflow.states import RunState
from tests.edge.wire import ask, connected, get, post
from tests.edge.workflow_server import call, on_site, site
from tests.flows import config
from tests.http import serving
from tests.workflow.journals import sqlite
from tests.workflow.served import APPROVE, ASK, GREET

KEYS = {"ann": "hg_" + "a" * 43, "bob": "hg_" + "b" * 43}
RUN = {"workflow": "greet", "inputs": {"who": "Ada"}}


@on_site
async def test_a_workflow_is_registered_once_and_found(here, client):
    first = await call(client, here, "POST", "/v1/workflows", GREET)
    assert (first.status, first.body["name"], first.body["version"]) == (201, "greet", "1")
    assert first.headers["X-Request-Id"]
    again = await call(client, here, "POST", "/v1/workflows", GREET)
    assert (again.status, again.body) == (200, first.body)
    other = await call(client, here, "POST", "/v1/workflows", GREET.replace("Hello", "Bye"))
    assert (other.status, other.body["error"]["code"]) == (409, "version_exists")
    (listed,) = (await call(client, here, "GET", "/v1/workflows")).body["data"]
    assert listed == {name: first.body[name] for name in listed}
    assert "source" not in listed
    for path in ("/v1/workflows/greet", "/v1/workflows/greet/1", "/v1/workflows/%67reet"):
        found = await call(client, here, "GET", path)
        assert (found.status, found.body) == (200, first.body)
    assert found.body["source"] == GREET
    assert found.body["definition"]["steps"][0]["id"] == "greeting"
    for path in ("/v1/workflows/other", "/v1/workflows/greet/2"):
        missing = await call(client, here, "GET", path)
        assert (missing.status, missing.body["error"]["code"]) == (404, "workflow_not_found")


@on_site
async def test_a_form_is_told_what_may_be_sent(here, client):
    for path, said in (
        ("/v1/workflows", "application/yaml or application/json"),
        ("/v1/workflows/validate", "application/yaml or application/json"),
        ("/v1/runs", "send Content-Type: application/json"),
    ):
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        async with client.post(f"{here.url}{path}", data=b"name: x", headers=form) as answer:
            assert answer.status == 415
            assert said in (await answer.json())["error"]["message"]


@on_site
async def test_json_is_read_as_well(here, client):
    definition = {"name": "j", "steps": [{"id": "a", "type": "transform", "operation": "template", "template": "x"}]}
    told = await call(client, here, "POST", "/v1/workflows", definition)
    assert (told.status, told.body["definition"]["name"]) == (201, "j")


@on_site
async def test_all_that_is_wrong_with_a_definition_is_told_with_its_place(here, client):
    bad = GREET.replace("inputs.who", "inputs.whom").replace("operation", "operatoin", 1)
    told = await call(client, here, "POST", "/v1/workflows", bad)
    assert told.status == 422
    error = told.body["error"]
    assert (error["code"], error["type"]) == ("invalid_workflow", "invalid_request_error")
    assert len(error["errors"]) >= 2
    assert all({"where", "message", "line", "column", "hint"} == set(fault) for fault in error["errors"])
    assert {6, 7, 8, 9} & {fault["line"] for fault in error["errors"]}
    report = await call(client, here, "POST", "/v1/workflows/validate", bad)
    assert (report.status, report.body) == (200, {"valid": False, "errors": error["errors"]})
    fine = await call(client, here, "POST", "/v1/workflows/validate?", GREET)
    assert (fine.status, fine.body) == (200, {"valid": True, "errors": []})


@on_site
async def test_a_run_from_its_start_to_its_end(here, client):
    await call(client, here, "POST", "/v1/workflows", GREET)
    started = await call(client, here, "POST", "/v1/runs", RUN | {"metadata": {"order": 17}})
    assert started.status == 201
    run_id = started.body["id"]
    await here.workflows.until(run_id, RunState.COMPLETED)
    told = await call(client, here, "GET", f"/v1/runs/{run_id}")
    assert (told.status, told.body["state"], told.body["outputs"]) == (200, "completed", {"text": "Hello Ada!"})
    assert (told.body["workflow"], told.body["version"], told.body["metadata"]) == ("greet", "1", {"order": 17})
    assert [(step["path"], step["state"]) for step in told.body["steps"]] == [
        ("greeting", "completed"),
        ("loud", "completed"),
    ]


@on_site
async def test_prompts_of_runs_are_counted_and_their_requests_are_not(here, client):
    await call(client, here, "POST", "/v1/workflows", ASK)
    started = await call(client, here, "POST", "/v1/runs", {"workflow": "ask", "inputs": {"question": "one two"}})
    ended = await here.workflows.until(started.body["id"], RunState.COMPLETED)
    assert ended.outputs == {"text": "one two"}
    assert len(here.books.opened) == 1


@on_site
async def test_an_idempotency_key(here, client):
    await call(client, here, "POST", "/v1/workflows", GREET)
    first = await call(client, here, "POST", "/v1/runs", RUN, Idempotency_Key="k1")
    again = await call(client, here, "POST", "/v1/runs", RUN, Idempotency_Key="k1")
    assert (first.status, again.status, again.body["id"]) == (201, 200, first.body["id"])
    other = await call(client, here, "POST", "/v1/runs", RUN | {"inputs": {"who": "Bob"}}, Idempotency_Key="k1")
    assert (other.status, other.body["error"]["code"]) == (409, "conflict")
    for bad in ("with space", "x" * 256):
        told = await call(client, here, "POST", "/v1/runs", RUN, Idempotency_Key=bad)
        assert (told.status, told.body["error"]["param"]) == (400, "Idempotency-Key")


@on_site
async def test_what_is_said_to_a_run(here, client):
    await call(client, here, "POST", "/v1/workflows", APPROVE)
    run_id = (await call(client, here, "POST", "/v1/runs", {"workflow": "approve"})).body["id"]
    await here.workflows.until(run_id, RunState.WAITING)

    async def say(what: str, body: object = None) -> tuple[int, str]:
        told = await call(client, here, "POST", f"/v1/runs/{run_id}/{what}", body)
        return told.status, told.body["state"] if told.status == 200 else told.body["error"]["code"]

    assert await say("pause") == (200, "paused")
    assert await say("pause", {}) == (409, "conflict")
    assert (await say("resume"))[0] == 200
    await here.workflows.until(run_id, RunState.WAITING)
    assert await say("cancel", {"because": "enough"}) == (200, "cancelled")
    assert (await say("retry", {"step": "nobody"}))[0] in {400, 404, 409}
    assert (await say("retry"))[0] == 200
    assert (await say("signal", {"event": "decided", "payload": "yes"}))[0] == 200
    ended = await here.workflows.until(run_id, RunState.COMPLETED)
    assert ended.outputs == {"result": "It was yes"}
    assert await say("cancel") == (409, "conflict")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/runs", {}, 400, "invalid_value"),
        ("POST", "/v1/runs", RUN | {"definition": {}}, 400, "invalid_value"),
        ("POST", "/v1/runs", RUN | {"input": {}}, 400, "unknown_parameter"),
        ("POST", "/v1/runs", RUN | {"max_concurrency": 0}, 400, "invalid_value"),
        ("POST", "/v1/runs", RUN | {"inputs": []}, 400, "invalid_type"),
        ("POST", "/v1/runs", b"{", 400, "invalid_json"),
        ("POST", "/v1/runs", b"", 400, "invalid_json"),
        ("POST", "/v1/runs", {"workflow": "nobody"}, 404, "workflow_not_found"),
        ("POST", "/v1/runs", {"workflow": "greet"}, 422, "invalid_inputs"),
        ("POST", "/v1/runs", {"definition": {"name": "x"}}, 422, "invalid_workflow"),
        ("POST", "/v1/runs?x=1", RUN, 400, "unknown_parameter"),
        ("POST", "/v1/runs/run_x/pause?x=1", None, 400, "unknown_parameter"),
        ("GET", "/v1/runs/run_x?x=1", None, 400, "unknown_parameter"),
        ("POST", "/v1/workflows?x=1", GREET, 400, "unknown_parameter"),
        ("GET", "/v1/runs?limit=0", None, 400, "invalid_value"),
        ("GET", "/v1/runs?limit=1001", None, 400, "invalid_value"),
        ("GET", "/v1/runs?limit=1&limit=2", None, 400, "invalid_value"),
        ("GET", "/v1/runs?state=done", None, 400, "invalid_value"),
        ("GET", "/v1/runs?after=%00nonsense", None, 400, "invalid_value"),
        ("GET", "/v1/runs?states=running", None, 400, "unknown_parameter"),
        ("GET", "/v1/runs/run_x", None, 404, "run_not_found"),
        ("GET", "/v1/runs/run_x/events", None, 404, "run_not_found"),
        ("POST", "/v1/runs/run_x/pause", None, 404, "run_not_found"),
        ("POST", "/v1/runs/run_x/pause", {"x": 1}, 400, "unknown_parameter"),
        ("POST", "/v1/runs/run_x/signal", {}, 400, "missing_required_parameter"),
        ("POST", "/v1/runs/run_x/signal", {"event": ""}, 400, "invalid_value"),
        ("POST", "/v1/runs/run_x/explode", None, 404, "unknown_url"),
        ("GET", "/v1/runs/run_x/pause", None, 405, "method_not_allowed"),
        ("POST", "/v1/runs/run_x", RUN, 405, "method_not_allowed"),
        ("POST", "/v1/runs/run_x/events", None, 405, "method_not_allowed"),
        ("DELETE", "/v1/runs/run_x", None, 405, "method_not_allowed"),
        ("POST", "/v1/workflows/greet", GREET, 405, "method_not_allowed"),
        ("GET", "/v1/workflows/validate", None, 405, "method_not_allowed"),
        ("PUT", "/v1/workflows", GREET, 405, "method_not_allowed"),
        ("GET", "/v1/workflows/a/b/c", None, 404, "unknown_url"),
        ("GET", "/v1/runs/", None, 404, "unknown_url"),
        ("GET", "/v1/workflows//1", None, 404, "unknown_url"),
    ],
)
@on_site
async def test_what_is_wrong_is_said(here, client, method, path, body, status, code):
    await call(client, here, "POST", "/v1/workflows", GREET)
    content_type = {} if not isinstance(body, bytes) else {"Content_Type": "application/json"}
    told = await call(client, here, method, path, body, **content_type)
    assert (told.status, told.body["error"]["code"]) == (status, code), told.body
    assert (status == 405) == ("Allow" in told.headers)
    assert (await call(client, here, "GET", "/v1/runs")).body["data"] == []


@pytest.mark.parametrize("media", ["text/csv", "application/octet-stream", "application/x-www-form-urlencoded"])
@on_site
async def test_other_kinds_of_bodies(here, client, media):
    told = await call(client, here, "POST", "/v1/workflows", GREET, Content_Type=media)
    assert (told.status, told.body["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a: [", b"a: &x [*x]", b"", b"3", b"\x00"])
@on_site
async def test_what_is_no_definition_at_all(here, client, body):
    told = await call(client, here, "POST", "/v1/workflows", body)
    assert told.status in {400, 422}, told.body


@on_site
async def test_lists_have_pages(here, client):
    await call(client, here, "POST", "/v1/workflows", GREET)
    ids = [(await call(client, here, "POST", "/v1/runs", RUN)).body["id"] for _ in range(3)]
    first = await call(client, here, "GET", "/v1/runs?workflow=greet&limit=2")
    rest = await call(client, here, "GET", f"/v1/runs?limit=2&after={first.body['next']}")
    assert [run["id"] for run in first.body["data"] + rest.body["data"]] == ids[::-1]
    assert rest.body["next"] is None
    none = await call(client, here, "GET", "/v1/runs?state=paused,failed&state=cancelled")
    assert none.body["data"] == []


async def test_keys_keep_their_runs_apart():
    keys = [{"name": name, "hash": "sha256:" + hashlib.sha256(key.encode()).hexdigest()} for name, key in KEYS.items()]
    conf = config(server={"anonymous": False}, keys=keys)
    bearer = {name: f"Bearer {key}" for name, key in KEYS.items()}
    async with site(conf) as here, aiohttp.ClientSession() as client:
        assert (await call(client, here, "GET", "/v1/workflows")).status == 401
        assert (await call(client, here, "POST", "/v1/runs", RUN)).status == 401
        await call(client, here, "POST", "/v1/workflows", GREET, Authorization=bearer["ann"])
        headers = {"Authorization": bearer["ann"], "X_Headgate_Class": "low"}
        run_id = (await call(client, here, "POST", "/v1/runs", RUN, **headers)).body["id"]
        record = await here.workflows.journal.run(run_id)
        assert (record.caller, record.priority) == ("ann", 3)
        assert (await call(client, here, "GET", f"/v1/runs/{run_id}", x_api_key=KEYS["ann"])).status == 200
        assert (await call(client, here, "GET", f"/v1/runs/{run_id}", Authorization=bearer["bob"])).status == 404
        assert (await call(client, here, "GET", "/v1/runs", Authorization=bearer["bob"])).body["data"] == []
        assert (await call(client, here, "GET", "/v1/workflows", Authorization=bearer["bob"])).body["data"]
        wrong = await call(client, here, "POST", "/v1/runs", RUN, Authorization=bearer["ann"], X_Headgate_Class="best")
        assert wrong.status == 400


async def test_large_bodies_are_refused():
    async with site(config(server={"max_body_bytes": 2000})) as here, aiohttp.ClientSession() as client:
        told = await call(client, here, "POST", "/v1/workflows", GREET + "#" * 2000)
        assert (told.status, told.body["error"]["code"]) == (413, "request_too_large")


async def test_a_journal_that_cannot_be_read_says_when_to_come_back(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    async with site(journal=sqlite(folder, 0)) as here, aiohttp.ClientSession() as client:
        await call(client, here, "POST", "/v1/workflows", GREET)
        folder.rename(tmp_path / "gone")
        told = await call(client, here, "POST", "/v1/runs", RUN)
        assert (told.status, told.body["error"]["code"]) == (503, "journal_unavailable")
        assert int(told.headers["Retry-After"]) >= 1
        (tmp_path / "gone").rename(folder)
        assert (await call(client, here, "POST", "/v1/runs", RUN)).status == 201


async def test_where_there_are_no_workflows():
    async with serving(config()) as server:
        for request in (get("/v1/workflows"), post(RUN, "/v1/runs"), get("/v1/runs/x/events")):
            answer = await ask(server.port, request)
            assert (answer.status, answer.code) == (404, "unknown_url")
            assert "not enabled" in answer.json["error"]["message"]


@on_site
async def test_head_and_options(here):
    async with connected(here.port) as wire:
        await wire.send(get("/v1/workflows", method="HEAD"))
        assert (await wire.head()).status == 200
        for path, allowed in (
            ("/v1/workflows", "GET, HEAD, OPTIONS, POST"),
            ("/v1/workflows/validate", "OPTIONS, POST"),
            ("/v1/runs/run_x", "GET, HEAD, OPTIONS"),
            ("/v1/runs/run_x/signal", "OPTIONS, POST"),
        ):
            await wire.send(get(path, method="OPTIONS"))
            head = await wire.head()
            assert (head.status, head.headers["allow"]) == (204, allowed)
        await wire.send(get("/v1/runs/run_x/explode", method="OPTIONS"))
        assert (await wire.answer()).status == 404
