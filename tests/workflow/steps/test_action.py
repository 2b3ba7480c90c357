"""`action` steps against real servers on loopback and real files."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from config.schema import WorkflowsSection
from pipeline.adapters.outside.real import RealOutside
from pipeline.workflow.definition import ActionStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result
from pipeline.workflow.steps.action import action
from tests.adapters.outside.servers import listening
from tests.workflow.steps.context import Context

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def outside(files: Path | None = None) -> AsyncIterator[RealOutside]:
    port = RealOutside(WorkflowsSection(hosts=["127.0.0.1"], files_dir=None if files is None else str(files)))
    try:
        yield port
    finally:
        await port.aclose()


async def run(one: ActionStep, files: Path | None = None, **filled: Any) -> Result:
    async with outside(files) as port:
        return await action(one, Context(one, outside=port, filled=filled))


async def call(handler: Handler, **fields: Any) -> tuple[Result, list[web.Request]]:
    """Of one step whose server answers by `handler`."""
    async with listening(handler) as (url, seen):
        one = ActionStep(**{"id": "call", "action": "http_request", "url": f"{url}/p?key=secret", **fields})
        return await run(one), seen


async def failed(handler: Handler, **fields: Any) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        await call(handler, **fields)
    return caught.value


async def echoing(request: web.Request) -> web.Response:
    return web.json_response(
        {"method": request.method, "headers": dict(request.headers), "body": await request.text()}, status=201
    )


async def test_a_request_and_its_answer():
    result, _ = await call(echoing, headers={"X-Mine": "1"})
    assert result.value["status"] == 201
    assert result.value["headers"]["content-type"].startswith("application/json")
    body = result.value["body"]
    assert (body["method"], body["body"]) == ("GET", "")
    assert body["headers"]["Idempotency-Key"] == "ab" * 32
    assert body["headers"]["X-Mine"] == "1"
    assert result.fields["metadata"] == {"status": 201}


@pytest.mark.parametrize(
    ("fields", "sent", "kind"),
    [
        ({"action": "http_request", "method": "PUT", "body": "a text"}, "a text", "text/plain; charset=utf-8"),
        ({"action": "http_request", "method": "POST", "body": {"a": [1]}}, '{"a":[1]}', "application/json"),
        ({"action": "webhook", "body": {"a": 1}}, '{"a":1}', "application/json"),
        ({"action": "webhook", "body": None}, "null", "application/json"),
        ({"action": "webhook"}, '{"run_id":"run-1","step":"call"}', "application/json"),
        ({"action": "webhook", "body": "<x/>", "headers": {"content-type": "text/xml"}}, "<x/>", "text/xml"),
    ],
)
async def test_bodies(fields: dict[str, Any], sent: str, kind: str):
    body = (await call(echoing, **fields))[0].value["body"]
    assert body["body"] == sent
    assert {name.lower(): value for name, value in body["headers"].items()}["content-type"] == kind
    assert body["method"] == fields.get("method", "POST")


async def test_a_steps_own_idempotency_key_stands():
    body = (await call(echoing, headers={"idempotency-key": "mine"}))[0].value["body"]
    assert {name: value for name, value in body["headers"].items() if name.lower() == "idempotency-key"} == {
        "idempotency-key": "mine"
    }


@pytest.mark.parametrize(
    ("content", "kind", "value"),
    [
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"a": 1}),
        (b"{not json", "application/json", "{not json"),
        (b"caf\xe9", "text/plain; charset=latin-1", "caf\xe9"),
        (b"caf\xe9", "text/plain; charset=no-such", "caf\N{REPLACEMENT CHARACTER}"),
        (b"cafe", "text/plain; charset=hex", "cafe"),
        (b"", "text/plain", None),
    ],
)
async def test_answers_are_parsed_where_they_are_json(content: bytes, kind: str, value: Any):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=content, headers={"Content-Type": kind})

    assert (await call(handler))[0].value["body"] == value


def answering(status: int, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, text="why", headers=headers)

    return handler


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (404, False), (408, True), (425, True), (429, True), (500, True), (503, True), (304, False)],
)
async def test_a_status_that_was_not_expected(status: int, retryable: bool):
    error = await failed(answering(status))
    assert (error.kind, error.retryable, error.details["status"]) == ("http_status", retryable, status)
    assert str(status) in error.message
    assert re.search(r" http://127\.0\.0\.1:\d+/", error.message)
    assert "secret" not in error.message


async def test_the_status_that_was_expected():
    assert (await call(answering(404), expect_status=[404, 200]))[0].value["status"] == 404
    assert (await failed(answering(200), expect_status=[404])).details["status"] == 200


async def test_retry_after_is_heeded():
    assert (await failed(answering(503, **{"Retry-After": "7"}))).retry_after == 7.0
    assert (await failed(answering(429, **{"Retry-After": "9" * 30}))).retry_after == 86_400.0
    assert (await failed(answering(503, **{"Retry-After": "soon"}))).retry_after is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait = (await failed(answering(503, **{"Retry-After": later}))).retry_after
    assert wait is not None
    assert 0 < wait <= 100
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert (await failed(answering(503, **{"Retry-After": past}))).retry_after == 0.0


async def test_a_header_that_turns_out_wrong():
    one = ActionStep(id="call", action="http_request", url="http://127.0.0.1:1/", headers={"X-A": "{{ a }}"})
    with pytest.raises(StepFailed) as caught:
        await run(one, **{"headers.X-A": "1\r\nX-B: 2"})
    assert caught.value.kind == "invalid_input"
    assert "X-A" in caught.value.message


async def test_a_message_in_the_log():
    one = ActionStep(id="tell", action="log", message="{{ m }}", level="warning")
    with capture_logs() as lines:
        assert (await run(one, message={"a": 1})).value == '{"a":1}'
    line = {"event": "workflow_log", "log_level": "warning", "message": '{"a":1}', "run_id": "run-1", "step": "tell"}
    assert lines == [line]


async def test_files(tmp_path: Path):
    one = ActionStep(id="save", action="file_write", path="out/{{ x }}.txt", content="{{ c }}")
    result = await run(one, tmp_path, path="out/a.txt", content="caf\xe9")
    assert result.value == {"path": str(tmp_path / "out/a.txt"), "bytes": 5}
    assert (tmp_path / "out/a.txt").read_text() == "caf\xe9"
    await run(one, tmp_path, path="out/a.txt", content=[1, {"b": None}])
    assert (tmp_path / "out/a.txt").read_text() == '[1,{"b":null}]'
    with pytest.raises(StepFailed, match="content: missing"):
        await run(ActionStep(id="save", action="file_write", path="a"), tmp_path)


async def test_an_append_is_done_once_however_often_the_step_is_tried(tmp_path: Path):
    one = ActionStep(id="save", action="file_write", path="log.txt", content="a line\n", append=True)
    for _ in range(3):
        await run(one, tmp_path)
    assert (tmp_path / "log.txt").read_text() == "a line\n"
