"""`POST /v1/completions`, as bytes on the wire and as the official client takes it."""

import json
from typing import Any

import openai
import pytest

from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.core.outcomes import Outcome
from pipeline.edge.completions_types import PROMPTS_MAX
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.test_client import client
from tests.edge.wire import ask, connected, post
from tests.flows import config
from tests.http import serving
from tests.servers import ScriptedBackend, events, says, streamed, whole
from workers.base import Delta, DeltaBatch, Usage
from workers.lexical import Lexical

CONFIG = scripted_config()
PATH = "/v1/completions"


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


def body(prompt: Any = "hello there", **fields: Any) -> dict[str, Any]:
    return {"model": "said", "prompt": prompt, **fields}


def chunk(text: str, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-theirs", "object": "text_completion", "created": 7, "model": "theirs", "choices": [choice]}


USAGE = {**chunk(""), "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


def in_front_of(backend: ScriptedBackend, **route: Any):
    return config(
        workers=[{"name": "w", "kind": "openai", "base_url": backend.base_url, "health_interval_ms": 0}],
        routes=[{"name": "said", "worker": "w", **route}],
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_worker_without_the_dialect_is_asked_by_chat(said, stream):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("x", end=True)
        sent = body(
            "once", stream=stream, max_tokens=5, temperature=0.5, top_p=0.9, stop="END", seed=3, echo=False, best_of=1,
            suffix=None, user="u", logit_bias={"1": 2},
        )  # fmt: skip
        answer = await ask(server.port, post(sent, PATH))
        assert answer.status == 200
        (request,) = said.requests
        assert [(message.role, message.text) for message in request.messages] == [("user", "once")]
        assert json.loads(request.body) == {
            "model": "said",
            "stream": stream,
            "max_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": "END",
            "seed": 3,
            "user": "u",
            "logit_bias": {"1": 2},
            "messages": [{"role": "user", "content": "once"}],
        }
        assert (request.native_dialect, json.loads(request.native)) == ("completions", sent)
        parameters = request.parameters
        assert (parameters.max_tokens, parameters.stop, parameters.seed, parameters.n) == (5, ("END",), 3, 1)


async def test_of_a_chat_only_the_text_is_told(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        raw = b'{"id":"chatcmpl-1","created":7,"model":"theirs","choices":[{"index":0,"delta":{"role":"assistant"}}]}'
        thinking = Delta(raw=raw.replace(b'"role":"assistant"', b'"reasoning_content":"hm"'), extra=True)
        end = Delta(finish_reason="tool_calls")
        said.batches.put_nowait(DeltaBatch((Delta(raw=raw), thinking, Delta("a"), Delta("b"), end), Usage(3, 2)))
        said.batches.put_nowait(None)
        sent = body(stream=True, stream_options={"include_usage": True})
        answer = await ask(server.port, post(sent, PATH, "X-Request-Id: r-1"))
    *chunks, usage, done = [data for _, data in answer.events]
    assert [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in chunks] == [
        ("a", None),
        ("b", None),
        ("", "stop"),
    ]
    assert {(one["id"], one["object"], one["created"], one["model"]) for one in [*chunks, usage]} == {
        ("cmpl-r-1", "text_completion", 7, "theirs")
    }
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 5, "[DONE]")


async def test_a_backend_that_has_the_dialect_gets_and_gives_its_bytes():
    sent = b'{"model":"said","prompt":["once","twice"],"echo":true, "logprobs":2,"stream":true,"x":[1.50]}'
    frames = [chunk("a", index=0), chunk("b", index=1), chunk("", "length"), chunk("", "stop", 1)]
    async with ScriptedBackend(says(streamed(*frames, USAGE))) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post(sent, PATH))
        (exchange,) = backend.exchanges
    assert exchange.path == "/v1/completions"
    assert exchange.json["prompt"] == ["once", "twice"]
    assert exchange.body.startswith(b'{"model":"said","prompt":["once","twice"],"echo":true,"logprobs":2,')
    assert answer.body == events(*frames)


async def test_the_tokens_are_told_with_the_backend_s_name_of_the_answer():
    sent = body(stream=True, stream_options={"include_usage": True})
    reply = says(streamed(chunk("a", "stop"), USAGE))
    async with ScriptedBackend(reply) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post(sent, PATH))
    _, usage, done = [data for _, data in answer.events]
    assert (usage["id"], usage["model"], usage["usage"]) == ("cmpl-theirs", "theirs", USAGE["usage"])
    assert done == "[DONE]"


async def test_a_backend_s_whole_answer_passes_as_it_is():
    reply = {**chunk("once", "stop"), "usage": USAGE["usage"], "x": 1}
    async with ScriptedBackend(says(whole(reply))) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post(body(suffix="the end"), PATH))
        assert answer.body == json.dumps(reply).encode()


async def test_a_server_without_completions_is_asked_for_a_chat_and_then_at_once():
    reply = {"choices": [{"index": 0, "message": {"content": "by chat"}, "finish_reason": "stop"}], "model": "m"}

    async def script(exchange):
        there = exchange.path == "/v1/chat/completions"
        await exchange.send(whole(reply) if there else whole({"error": "no such path"}, status=404))

    async with ScriptedBackend(script) as backend, serving(in_front_of(backend)) as server:
        for _ in range(2):
            answer = await ask(server.port, post(body(), PATH))
            assert answer.json["choices"][0]["text"] == "by chat"
        asked = [exchange.path for exchange in backend.exchanges]
        assert asked == ["/v1/completions", "/v1/chat/completions", "/v1/chat/completions"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_route_changes_what_it_has_to(stream):
    said = {"object": "text_completion", "choices": [{"index": 0, "text": "tell no word", "finish_reason": "stop"}]}
    script = says(streamed({**said, "model": "m"}) if stream else whole({**said, "model": "m"}))
    route = {"filters": [{"kind": "redact", "pattern": "word", "replacement": "****"}], "rename_model": True}
    async with ScriptedBackend(script) as backend, serving(in_front_of(backend, **route)) as server:
        answer = await ask(server.port, post(body(stream=stream), PATH))
        told = [data for _, data in answer.events if data != "[DONE]"] if stream else [answer.json]
        assert "".join(one["choices"][0]["text"] for one in told) == "tell no ****"
        assert {(one["model"], one["object"]) for one in told} == {("said", "text_completion")}
        assert backend.exchanges[0].path == "/v1/completions"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_a_route_adds_goes_by_chat(stream):
    """With a system message the request is no longer one that passes as it is."""
    said = {"choices": [{"index": 0, "delta": {"content": "tell a word"}, "finish_reason": "stop"}], "model": "m"}
    reply = {"choices": [{"index": 0, "message": {"content": "tell a word"}, "finish_reason": "stop"}], "model": "m"}
    script = says(streamed(said) if stream else whole(reply))
    async with ScriptedBackend(script) as backend, serving(in_front_of(backend, system="Be brief.")) as server:
        answer = await ask(server.port, post(body(stream=stream), PATH))
        told = [data for _, data in answer.events if data != "[DONE]"] if stream else [answer.json]
        assert "".join(one["choices"][0]["text"] for one in told) == "tell a word"
        assert {one["object"] for one in told} == {"text_completion"}
        assert backend.exchanges[0].path == "/v1/chat/completions"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"logprobs": 0}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_what_chat_has_no_words_for_is_refused_there(said, stream, fields, param):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, post({**body(), **fields, "stream": stream}, PATH))
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        assert "only chat" in answer.json["error"]["message"]
        assert said.requests == []
        (ticket,) = server.books.ended
        assert ticket.ending is not None
        assert ticket.ending.outcome is Outcome.REJECTED


async def test_a_route_s_own_words_are_given_for_what_only_a_backend_that_is_down_could_serve():
    async with ScriptedBackend(says(whole({"error": {"message": "out of memory"}}, 500))) as backend:
        async with serving(in_front_of(backend, static_answer="Try later.")) as server:
            for stream in (False, True):
                answer = await ask(server.port, post(body(["a", "b"], stream=stream), PATH))
                assert (answer.status, answer.headers["x-headgate-degraded"]) == (200, "static_answer")
                told = [data for _, data in answer.events if data != "[DONE]"] if stream else [answer.json]
                choices = [choice for one in told for choice in one["choices"]]
                assert {choice["index"] for choice in choices} == {0, 1}
                assert "".join(choice["text"] for choice in choices) == "Try later." * 2
        assert backend.exchanges[0].path == "/v1/completions"


async def test_echo_has_no_completions_of_several_prompts_even_where_there_is_a_static_answer():
    routes = [{"name": "echo", "worker": "echo", "static_answer": "Try later."}]
    async with serving(config(routes=routes)) as server:
        answer = await ask(server.port, post({**body(["a", "b"]), "model": "echo"}, PATH))
        assert (answer.status, answer.json["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("fields", [{"prompt": ["a"]}, {"n": 2, "best_of": 2}, {"echo": False}, {"suffix": ""}])
async def test_what_says_nothing_more_is_served_by_chat(said, fields):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("x", end=True)
        answer = await ask(server.port, post({**body(), **fields}, PATH))
        assert (answer.status, answer.json["choices"][0]["text"]) == (200, "x")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": 3}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [1, 2]}, "prompt", "invalid_type"),
        ({"prompt": [[1, 2]]}, "prompt", "invalid_type"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_type"),
        ({"prompt": ["a"] * (PROMPTS_MAX + 1)}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 128, "n": 128}, "n", "invalid_value"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "logprobs": "all"}, "logprobs", "invalid_type"),
        ({"prompt": "a", "n": 0}, "n", "invalid_value"),
        ({"prompt": "a", "stream_options": 3}, "stream_options", "invalid_type"),
    ],
)
async def test_a_bad_request_is_refused_by_what_is_wrong_with_it(said, fields, param, code):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, post({"model": "said", **fields}, PATH))
        error = answer.json["error"]
        assert (answer.status, error["param"], error["code"]) == (400, param, code)
        assert not said.requests


async def test_no_json_and_no_such_model(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        assert (await ask(server.port, post(b"{", PATH))).code == "invalid_json"
        assert (await ask(server.port, post(b'"\xff"', PATH))).code == "invalid_json"
        assert (await ask(server.port, post({**body(), "model": "nope"}, PATH))).code == "model_not_found"


async def test_a_failure_after_the_beginning_is_an_event(said):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(body(stream=True), PATH))
        await said.called.wait()
        said.say("so far")
        await wire.head()
        assert b"so far" in await wire.chunk()
        said.batches.put_nowait(RuntimeError("broken"))
        assert b'data: {"error":' in await wire.chunk()


async def test_passages_are_told():
    conf = config(
        routes=[{"name": "said", "worker": "echo", "collection": "c"}],
        collections=[{"name": "c", "store": "memory", "embedder": "lexical"}],
    )
    retriever = MemoryRetriever(Lexical())
    await retriever.add("c", "docs/hello.md", [("Greetings", "Say hello there to everyone.")])
    async with serving(conf, retriever=retriever) as server:
        answer = await ask(server.port, post(body(), PATH))
        assert answer.json["citations"][0]["source"] == "docs/hello.md"
        answer = await ask(server.port, post(body(stream=True), PATH))
        first, *others = [data for _, data in answer.events if data != "[DONE]"]
        assert first["citations"][0]["source"] == "docs/hello.md"
        assert not any("citations" in other for other in others)


async def test_the_official_client():
    async with serving(CONFIG) as server, client(server) as api:
        completion = await api.completions.create(model="echo", prompt="hello there", max_tokens=1)
        assert completion.object == "text_completion"
        assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("hello ", "length")
        assert completion.usage is not None
        assert completion.usage.total_tokens == 3
        stream = await api.completions.create(
            model="echo", prompt="hello there", stream=True, stream_options={"include_usage": True}
        )
        chunks = [one async for one in stream]
        assert "".join(one.choices[0].text for one in chunks if one.choices) == "hello there"
        assert chunks[-1].usage is not None
        with pytest.raises(openai.BadRequestError) as refused:
            await api.completions.create(model="echo", prompt="hello", logprobs=1)
        assert refused.value.param == "logprobs"
        with pytest.raises(openai.BadRequestError):
            await api.completions.create(model="echo", prompt=[1, 2])


async def test_the_official_client_through_to_a_backend_that_has_the_dialect():
    async def script(exchange: Any) -> None:
        frames = [chunk("one"), chunk("two", index=1), chunk("", "stop"), chunk("", "stop", 1), USAGE]
        reply = {**frames[0], "choices": [frames[0]["choices"][0], frames[1]["choices"][0]]}
        await says(streamed(*frames) if exchange.json.get("stream") else whole(reply))(exchange)

    async with ScriptedBackend(script) as backend, serving(in_front_of(backend)) as server, client(server) as api:
        completion = await api.completions.create(model="said", prompt=["a", "b"], logprobs=1)
        assert [choice.text for choice in completion.choices] == ["one", "two"]
        stream = await api.completions.create(model="said", prompt=["a", "b"], stream=True)
        told = [(one.choices[0].index, one.choices[0].text) async for one in stream]
        assert told == [(0, "one"), (1, "two"), (0, ""), (1, "")]
