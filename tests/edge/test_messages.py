"""`POST /v1/messages` and `/v1/messages/count_tokens` over HTTP."""

import asyncio
import json
from typing import Any

import pytest

from pipeline.core.errors import Overloaded
from pipeline.edge import messages_tokens
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import Answer, ask, connected, get, post
from tests.http import Serving, serving
from workers.base import Delta, DeltaBatch, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind

CONFIG = scripted_config(max_body_bytes=10_000)
PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


def asking(model: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hello there"}], **fields}


def message(body: Any, *lines: str) -> bytes:
    return post(body, PATH, *lines)


def refused(answer: Answer, request_id: str | None = None) -> tuple[int, str]:
    """Status and type of an error; it has Anthropic's shape."""
    body = answer.json
    assert sorted(body) == ["error", "request_id", "type"]
    assert sorted(body["error"]) == ["message", "type"]
    assert body["type"] == "error"
    assert body["request_id"] == (request_id or answer.headers["x-request-id"])
    return answer.status, body["error"]["type"]


async def test_what_reaches_the_worker(said):
    said.say("ok", end=True)
    body = json.dumps(
        asking("said", system="Be brief.", temperature=0.5, container="c", stop_sequences=["END"])
    ).encode()
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, message(body, "X-Session-Id: s1", "anthropic-version: 2023-06-01"))
    assert answer.status == 200
    (request,) = said.requests
    assert [(m.role, m.text) for m in request.messages] == [("system", "Be brief."), ("user", "hello there")]
    assert (request.session_id, request.stream) == ("s1", False)
    assert (request.parameters.max_tokens, request.parameters.temperature) == (9, 0.5)
    assert request.parameters.stop == ("END",)
    assert json.loads(request.body)["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request.native, request.native_dialect) == (body, "messages")


async def test_native_frames_end_the_answer_and_the_connection_serves_on(said):
    frames = [b'event: %b\ndata: {"type":"%b"}\n\n' % (name, name) for name in (b"message_start", b"message_stop")]
    said.batches.put_nowait(DeltaBatch((Delta("x", raw=frames[0], native=True),)))
    said.batches.put_nowait(DeltaBatch((Delta(finish_reason="stop", raw=frames[1], native=True),)))
    said.batches.put_nowait(None)
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(message(asking("said", stream=True)))
        answer = await wire.answer()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.body == b"".join(frames)
        await wire.send(message(asking(stream=True)))
        assert (await wire.answer()).events[-1][0] == "message_stop"


@pytest.mark.parametrize(
    ("request_bytes", "status", "kind"),
    [
        (message(b"{"), 400, "invalid_request_error"),
        (message(asking(max_tokens=None)), 400, "invalid_request_error"),
        (message(asking("nope")), 404, "not_found_error"),
        (message(asking(messages=[{"role": "user", "content": "x" * 11_000}])), 413, "request_too_large"),
        (message(asking(), "X-Request-Timeout-Ms: soon"), 400, "invalid_request_error"),
        (message(asking(), "Content-Encoding: gzip"), 415, "invalid_request_error"),
        (get(PATH), 405, "invalid_request_error"),
        (get(f"{PATH}/batches"), 404, "not_found_error"),
        (post(asking("nope"), COUNT), 404, "not_found_error"),
        (post({"model": "echo"}, COUNT), 400, "invalid_request_error"),
    ],
)
async def test_errors_have_anthropics_shape(request_bytes, status, kind):
    async with serving(CONFIG) as server:
        assert refused(await ask(server.port, request_bytes)) == (status, kind)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (WorkerError(WorkerErrorKind.BAD_REQUEST, "no"), 400, "invalid_request_error"),
        (WorkerError(WorkerErrorKind.AUTH, "no"), 502, "api_error"),
    ],
)
async def test_errors_of_the_backend(said, stream, error, status, kind):
    said.batches.put_nowait(error)
    async with serving(CONFIG, workers={"said": said}) as server:
        assert refused(await ask(server.port, message(asking("said", stream=stream)))) == (status, kind)


async def test_an_error_after_the_answer_began_is_an_event(said):
    said.say("a")
    said.batches.put_nowait(WorkerError(WorkerErrorKind.RESET, "it broke"))
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, message(asking("said", stream=True), "X-Request-Id: mine"))
    assert answer.status == 200
    name, data = answer.events[-1]
    assert (name, data["error"]["type"], data["request_id"]) == ("error", "api_error", "mine")
    assert [event for event, _ in answer.events].count("message_stop") == 0


async def test_a_deadline(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, message(asking("said"), "X-Request-Timeout-Ms: 30"))
    assert refused(answer) == (504, "timeout_error")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_shed_request_is_told_when_to_come_back():
    async with serving(CONFIG) as server:
        server.pipeline.ingress.draining = True
        answer = await ask(server.port, message(asking()))
    assert refused(answer) == (503, "overloaded_error")
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) >= 1


async def test_the_head_gate_says_the_same(monkeypatch):
    def gate(*_: object) -> Overloaded:
        return Overloaded("full", place="ingress", reason="wait_budget", retry_after=2.0)

    async with serving(CONFIG) as server:
        server.pipeline.ingress.gate_closed = True
        monkeypatch.setattr(server.pipeline.ingress, "gate", gate)
        for number in range(2):
            answer = await ask(server.port, message(asking(), f"X-Request-Id: r{number}"))
            assert refused(answer, f"r{number}") == (503, "overloaded_error")
        answer = await ask(server.port, post(asking()))
        assert answer.code == "overloaded"
        assert len(server.books.ended) == 0, "they got no further than the gate"


async def test_counting_tokens_is_no_prompt():
    async with serving(CONFIG) as server:
        plain = await _counted(server)
        assert plain > 2
        assert await _counted(server, system="Be brief.") > plain
        assert await _counted(server, tools=[{"name": "weather", "input_schema": {"type": "object"}}]) > plain
        assert not server.books.opened


class Counting(ScriptedWorker):
    """Its server says what it is told to, or nothing for ever."""

    def __init__(self, *answers: int | WorkerError | None) -> None:
        super().__init__()
        self.answers = list(answers)

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, WorkerError):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return answer


async def test_who_serves_the_route_counts():
    refusing = WorkerError(WorkerErrorKind.BAD_REQUEST, "no")
    worker = Counting(4711, refusing, 4712)
    tools = [{"name": "weather", "input_schema": {"type": "object"}}]
    async with serving(CONFIG, workers={"said": worker}) as server:
        assert await _counted(server, model="said", system="Be brief.", tools=tools) == 4711
        (asked,) = worker.requests
        assert (asked.messages[0].role, asked.messages[0].text) == ("system", "Be brief.")
        body = json.loads(asked.body)
        assert body["tools"][0]["function"]["name"] == "weather"
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert await _counted(server, model="said") == await _counted(server, model="echo")  # the estimate
        assert await _counted(server, model="said") == 4712
        assert not server.books.opened


async def test_a_backend_that_does_not_say_in_time_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(messages_tokens, "_WITHIN", 0.02)
    worker = Counting(None, 4711)
    async with serving(CONFIG, workers={"said": worker}) as server:
        estimate = await _counted(server, model="echo")
        for _ in range(2):  # it is left alone for a while
            assert await _counted(server, model="said") == estimate
        assert len(worker.requests) == 1


async def test_a_long_text_is_counted_too():
    async with serving(scripted_config()) as server:
        messages = [{"role": "user", "content": "word " * 50_000}]
        assert 40_000 < await _counted(server, messages=messages) < 100_000


async def _counted(server: Serving, **fields: Any) -> int:
    body = {name: value for name, value in asking(**fields).items() if name != "max_tokens"}
    answer = await ask(server.port, post(body, COUNT))
    assert (answer.status, list(answer.json)) == (200, ["input_tokens"])
    tokens: int = answer.json["input_tokens"]
    return tokens
