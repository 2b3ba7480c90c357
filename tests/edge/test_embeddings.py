"""`POST /v1/embeddings`, as bytes on the wire and as the official client takes it."""

import base64
import json
import math
import struct
from typing import Any

import openai
import pytest

from pipeline.core.outcomes import Outcome
from pipeline.edge.embeddings_types import INPUTS_MAX
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.test_client import client
from tests.edge.wire import ask, post
from tests.flows import config
from tests.http import serving
from tests.servers import Exchange, ScriptedBackend, says, whole

CONFIG = scripted_config()
PATH = "/v1/embeddings"


def body(given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": given, **fields}


def listed(*vectors: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "data": data, "model": "theirs", "usage": usage, "x": 1}


def in_front_of(backend: ScriptedBackend, **route: Any):
    return config(
        workers=[
            {
                "name": "w",
                "kind": "openai",
                "base_url": backend.base_url,
                "health_interval_ms": 0,
                "model": "their-model",
            }
        ],
        routes=[{"name": "vectors", "worker": "w", **route}],
    )


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [
        ("full queues shed", 1, 3),
        (["full queues", "shed"], 2, 3),
        ([1, 2, 3], 1, 3),
        ([[1, 2], [3]], 2, 3),
        (["x"] * INPUTS_MAX, INPUTS_MAX, INPUTS_MAX),
    ],
)
async def test_one_vector_for_each_input(given, count, tokens):
    async with serving(CONFIG) as server:
        answer = await ask(server.port, post(body(given, dimensions=4), PATH))
    assert answer.status == 200
    told = answer.json
    assert (told["object"], told["model"]) == ("list", "echo")
    assert told["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [one["index"] for one in told["data"]] == list(range(count))
    assert all(len(one["embedding"]) == 4 for one in told["data"])
    assert math.hypot(*told["data"][0]["embedding"]) == pytest.approx(1)


async def test_base64_is_the_same_vector():
    async with serving(CONFIG) as server:
        floats = await ask(server.port, post(body("hello there"), PATH))
        packed = await ask(server.port, post(body("hello there", encoding_format="base64"), PATH))
    vector = floats.json["data"][0]["embedding"]
    data = base64.b64decode(packed.json["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(vector)}f", data)) == pytest.approx(vector)
    assert len(vector) == 384


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": None}, "input", "invalid_type"),
        ({"input": 3}, "input", "invalid_type"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input[1]", "invalid_value"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": ["a", [1]]}, "input[1]", "invalid_type"),
        ({"input": [1, "a"]}, "input[1]", "invalid_type"),
        ({"input": [1, -1]}, "input[1]", "invalid_type"),
        ({"input": [1, True]}, "input[1]", "invalid_type"),
        ({"input": [True]}, "input[0]", "invalid_type"),
        ({"input": [1.5]}, "input[0]", "invalid_type"),
        ({"input": [[1], []]}, "input[1]", "invalid_type"),
        ({"input": [[1], "a"]}, "input[1]", "invalid_type"),
        ({"input": [[1, 2**40]]}, "input[0][1]", "invalid_type"),
        ({"input": [None]}, "input[0]", "invalid_type"),
        ({"input": ["a"] * (INPUTS_MAX + 1)}, "input", "invalid_value"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": "many"}, "dimensions", "invalid_type"),
    ],
)
async def test_a_bad_request_is_refused_by_what_is_wrong_with_it(fields, param, code):
    async with serving(CONFIG) as server:
        answer = await ask(server.port, post({"model": "echo", **fields}, PATH))
        error = answer.json["error"]
        assert (answer.status, error["param"], error["code"]) == (400, param, code)
        assert error["message"].startswith(("Invalid value for", "Missing required parameter"))


async def test_no_json_and_no_such_model():
    async with serving(CONFIG) as server:
        assert (await ask(server.port, post(b"{", PATH))).code == "invalid_json"
        assert (await ask(server.port, post({"model": "nope", "input": "a"}, PATH))).code == "model_not_found"


async def test_a_worker_that_cannot_embed_says_so():
    async with serving(CONFIG, workers={"said": ScriptedWorker()}) as server:
        answer = await ask(server.port, post({"model": "said", "input": "a"}, PATH))
        assert (answer.status, answer.code) == (400, "backend_refused")
        assert "cannot embed" in answer.json["error"]["message"]
        (ticket,) = server.books.ended
        assert ticket.ending is not None
        assert ticket.ending.outcome is Outcome.REJECTED


async def test_what_the_backend_does_not_have_is_told():
    reply = whole({"error": {"message": "no embeddings here", "type": "not_supported_error", "code": 501}}, 501)
    async with ScriptedBackend(says(reply)) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post({"model": "vectors", "input": "a"}, PATH))
        assert (answer.status, answer.code) == (400, "backend_refused")
        assert "no embeddings here" in answer.json["error"]["message"]


async def test_request_and_answer_pass_as_they_are():
    sent = b'{"model":"vectors","input":["a","b"],"user":"u","x": 1.50}'
    reply = listed([0.5, 1.0], [1.0, 0.0])
    async with ScriptedBackend(says(whole(reply))) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post(sent, PATH))
        (exchange,) = backend.exchanges
        (ticket,) = server.books.ended
    assert exchange.body == b'{"model":"their-model","input":["a","b"],"user":"u","x":1.50}'
    assert answer.body == json.dumps(reply).encode()
    assert ticket.usage is not None
    assert ticket.usage.prompt_tokens == 3


async def test_the_model_is_renamed_where_the_route_says_so():
    config_of = {"rename_model": True}
    async with (
        ScriptedBackend(says(whole(listed([1.0])))) as backend,
        serving(in_front_of(backend, **config_of)) as server,
    ):
        answer = await ask(server.port, post({"model": "vectors", "input": "a"}, PATH))
        assert answer.json["model"] == "vectors"
        assert answer.json["data"] == listed([1.0])["data"]


@pytest.mark.parametrize("rename", [False, True])
async def test_a_backend_that_does_not_name_its_model(rename):
    async def embeds(exchange: Exchange) -> None:
        await says(whole({"model": "whatever", "embeddings": [[1.0]], "prompt_eval_count": 1}))(exchange)

    async with ScriptedBackend(embeds) as backend:
        address = backend.base_url.removesuffix("/v1")
        ollama = {"name": "w", "kind": "ollama", "base_url": address, "model": "their-model", "health_interval_ms": 0}
        routes = [{"name": "vectors", "worker": "w", "rename_model": rename}]
        async with serving(config(workers=[ollama], routes=routes)) as server:
            answer = await ask(server.port, post({"model": "vectors", "input": "a"}, PATH))
    assert answer.json["model"] == ("vectors" if rename else "their-model")


@pytest.mark.parametrize(
    "reply", [whole(b"<html>", 200, "text/html"), whole(listed([1.0], [1.0])), whole(b""), whole({"data": "x"})]
)
async def test_an_answer_that_is_none_is_a_bad_gateway(reply):
    async with ScriptedBackend(says(reply)) as backend, serving(in_front_of(backend)) as server:
        answer = await ask(server.port, post({"model": "vectors", "input": "a"}, PATH))
        assert answer.status == 502


async def test_the_official_client():
    """It asks for base64 where nothing is said, and unpacks it."""
    async with serving(CONFIG) as server, client(server) as api:
        unsaid = await api.embeddings.create(model="echo", input=["hello there", "hello there", "a tide table"])
        first, again, other = [one.embedding for one in unsaid.data]
        assert first == again != other
        assert len(first) == 384
        said = await api.embeddings.create(model="echo", input="hello there", encoding_format="float")
        assert said.data[0].embedding == pytest.approx(first)
        short = await api.embeddings.create(model="echo", input=[[1, 2, 3]], dimensions=5)
        assert len(short.data[0].embedding) == 5
        assert short.usage.prompt_tokens == 3
        with pytest.raises(openai.BadRequestError) as refused:
            await api.embeddings.create(model="echo", input="")
        assert refused.value.param == "input"


async def test_the_official_client_in_front_of_a_backend_without_base64():
    """It would take a list too; other clients would not."""
    async with (
        ScriptedBackend(says(whole(listed([0.5, -1.0])))) as backend,
        serving(in_front_of(backend)) as server,
        client(server) as api,
    ):
        answer = await api.embeddings.create(model="vectors", input="a")
        assert answer.data[0].embedding == [0.5, -1.0]
        assert backend.exchanges[0].json["encoding_format"] == "base64"
