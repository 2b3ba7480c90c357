"""`POST /v1/prompts`: what is read, and which events come."""

from typing import Any

import msgspec
import pytest

from pipeline.core.errors import StageFailed
from pipeline.core.messages import Cut
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.edge.native import NativeEncoder
from pipeline.edge.native_types import EVENTS
from tests.edge.messages import PASSAGE, post_output
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import ask, events, post
from tests.http import serving
from workers.base import Delta, Usage

CONFIG = scripted_config()


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


def prompt(body: Any, *lines: str) -> bytes:
    return post(body, "/v1/prompts", *lines)


def encoded(*, retrieves: bool = False, message: Any = None, usage: Usage | None = None) -> list[tuple[str, Any]]:
    message = message or post_output()
    encoder = NativeEncoder(message.request.ticket, retrieves=retrieves)
    encoder.begin(message)
    frames = encoder.deltas(Answer((Delta('a"\n'), Delta("", raw=b"{}"), Delta("b", 0, "length"))))
    return events(frames + encoder.finish(usage))


def test_the_events_come_in_order_and_as_they_are_described():
    got = encoded(retrieves=True, message=post_output(PASSAGE), usage=Usage(3, 2))
    assert [name for name, _ in got] == ["accepted", "retrieved", "delta", "delta", "usage", "done"]
    for name, data in got:
        described = msgspec.convert(data, EVENTS[name])
        assert msgspec.to_builtins(described) == data


def test_accepted_says_which_request_it_is_and_how_long_it_may_take():
    assert encoded()[0] == (
        "accepted",
        {"request_id": "r1", "session_id": "s1", "route": "docs", "deadline_ms": 2500},
    )


def test_retrieved_shows_the_passages_and_what_was_cut():
    message = post_output(PASSAGE, cut=Cut(2, 1), degraded=True)
    name, data = encoded(retrieves=True, message=message)[1]
    assert name == "retrieved"
    assert data["passages"][0]["index"] == 1
    assert data["degraded"] is True
    assert data["cut"] == {"passages": 2, "turns": 1}


def test_routes_without_a_collection_retrieve_nothing_and_uncounted_tokens_are_not_told():
    assert [name for name, _ in encoded()] == ["accepted", "delta", "delta", "done"]


def test_deltas_are_the_text_alone_and_done_has_the_reason():
    got = encoded()
    assert [data for name, data in got if name == "delta"] == [{"text": 'a"\n', "index": 0}, {"text": "b", "index": 0}]
    assert got[-1][1]["finish_reason"] == "length"
    assert got[-1][1]["outcome"] == "completed"


def test_done_has_the_stages_times():
    message = post_output()
    ticket: Ticket = message.request.ticket
    ticket.sojourn[:4], ticket.service[:4] = [0.001, 0.002, 0.003, 0.004], [0.01, 0.02, 0.03, 0.04]
    timings = encoded(message=message)[-1][1]["timings"]
    assert timings == {
        "rag": {"queue": 1.0, "service": 10.0},
        "assemble": {"queue": 2.0, "service": 20.0},
        "inference": {"queue": 3.0, "service": 30.0},
        "post": {"queue": 4.0, "service": 40.0},
    }


def test_an_error_is_the_last_event():
    message = post_output()
    encoder = NativeEncoder(message.request.ticket, retrieves=False)
    ((name, data),) = events(encoder.error(StageFailed("broken")))
    assert name == "error"
    assert msgspec.convert(data, EVENTS["error"]).error.code == "internal_error"


async def test_a_prompt_is_one_user_message(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("hi", end=True)
        answer = await ask(
            server.port, prompt({"route": "said", "prompt": "why?", "parameters": {"stop": ["x"], "seed": 4}})
        )
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert [name for name, _ in answer.events] == ["accepted", "delta", "done"]
        (request,) = said.requests
        assert [(message.role, message.text) for message in request.messages] == [("user", "why?")]
        assert (request.parameters.stop, request.parameters.seed, request.stream) == (("x",), 4, True)
        assert request.body == b""


async def test_messages_may_be_given_instead(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("hi", end=True)
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "why?"}]}]
        answer = await ask(server.port, prompt({"route": "said", "messages": messages}))
        assert answer.status == 200
        assert [(message.role, message.text) for message in said.requests[0].messages] == [
            ("system", "s"),
            ("user", "why?"),
        ]


@pytest.mark.parametrize(
    ("fields", "lines", "session_id", "deadline_ms"),
    [
        ({}, (), None, 300_000),
        ({}, ("X-Session-Id: head", "X-Request-Timeout-Ms: 7000"), "head", 7_000),
        (
            {"session_id": "body", "timeout_ms": 5000},
            ("X-Session-Id: head", "X-Request-Timeout-Ms: 7000"),
            "body",
            5_000,
        ),
        ({"timeout_ms": 86_400_000}, (), None, 900_000),
    ],
)
async def test_the_body_goes_before_the_head(said, fields, lines, session_id, deadline_ms):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("hi", end=True)
        answer = await ask(server.port, prompt({"route": "said", "prompt": "x", **fields}, *lines))
        _, accepted = answer.events[0]
        assert (accepted["session_id"], accepted["deadline_ms"]) == (session_id, deadline_ms)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"route": "said"}, 400, "missing_required_parameter", "prompt"),
        ({"route": "said", "prompt": "x", "messages": [{"role": "user"}]}, 400, "invalid_value", "prompt"),
        ({"route": "said", "prompt": ""}, 400, "invalid_value", "prompt"),
        ({"route": "said", "prompt": None}, 400, "invalid_type", "prompt"),
        ({"route": "said", "messages": []}, 400, "invalid_value", "messages"),
        ({"route": "said", "messages": [{"role": "x"}]}, 400, "invalid_value", "messages[0].role"),
        ({"prompt": "x"}, 400, "missing_required_parameter", "route"),
        ({"route": "none", "prompt": "x"}, 404, "model_not_found", "model"),
        ({"route": "said", "prompt": "x", "stream": True}, 400, "unknown_parameter", "stream"),
        ({"route": "said", "prompt": "x", "parameters": {"n": 2}}, 400, "unknown_parameter", "parameters.n"),
        ({"route": "said", "prompt": "x", "timeout_ms": 0}, 400, "invalid_value", "timeout_ms"),
        ({"route": "said", "prompt": "x", "timeout_ms": -5}, 400, "invalid_value", "timeout_ms"),
        ({"route": "said", "prompt": "x", "session_id": "a\x00"}, 400, "invalid_value", "session_id"),
        (
            {"route": "said", "prompt": "x", "parameters": {"temperature": 3}},
            400,
            "invalid_value",
            "parameters.temperature",
        ),
        (b"nope", 400, "invalid_json", None),
    ],
)
async def test_what_is_wrong_is_answered_before_the_stream_begins(said, body, status, code, param):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, prompt(body))
        assert answer.status == status
        assert (answer.code, answer.json["error"]["param"]) == (code, param)
