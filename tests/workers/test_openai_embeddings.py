import array
import base64
import json

import pytest

from tests.servers import says, says_and_closes, whole
from tests.workers.helpers import calling
from workers.base import EmbeddingRequest, EmbeddingWorker
from workers.canonical import embeddings
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_embeddings import decode_answer, encode_request

USAGE = {"prompt_tokens": 3, "total_tokens": 3}


def base64_of(*numbers: float) -> str:
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()


def listed(*vectors, **fields) -> dict:
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "theirs", "usage": USAGE, **fields}


def asked(*inputs, body: bytes = b"", **fields) -> EmbeddingRequest:
    return EmbeddingRequest("req-1", "asked-for", inputs or ("a", "b"), body=body, **fields)


async def test_a_client_s_request_and_its_answer_pass_as_they_are():
    body = b'{"model":"route","input":["a","b"],"x": 1.50}'
    reply = listed([1.0, 0.0], [0.0, 1.0])
    async with calling(says(whole(reply)), model="their-model") as (worker, backend):
        assert isinstance(worker, EmbeddingWorker)
        answer = await worker.embed(asked(body=body))
    (exchange,) = backend.exchanges
    assert (exchange.method, exchange.path) == ("POST", "/v1/embeddings")
    assert exchange.body == b'{"model":"their-model","input":["a","b"],"x":1.50}'
    assert exchange.headers["x-request-id"] == "req-1"
    assert json.loads(answer.body) == reply
    assert answer.usage.prompt_tokens == 3


async def test_texts_of_our_own_come_back_as_vectors_in_their_order():
    reply = listed([1.0, 0.0], [0.0, 1.0])
    reply["data"].reverse()
    async with calling(says(whole(reply)), model="their-model") as (worker, backend):
        answer = await worker.embed(asked(dimensions=2))
    assert backend.exchanges[0].json == {"input": ["a", "b"], "dimensions": 2, "model": "asked-for"}
    assert (answer.vectors, answer.body) == (((1.0, 0.0), (0.0, 1.0)), b"")


def test_the_worker_s_model_is_asked_where_the_request_names_none():
    assert json.loads(encode_request(EmbeddingRequest("r", "", ("a",)), model="m"))["model"] == "m"


@pytest.mark.parametrize(("encoding", "sent"), [("float", [0.5, -1.0]), ("base64", base64_of(0.5, -1.0))])
def test_the_encoding_that_was_asked_for_passes(encoding, sent):
    answer = decode_answer(json.dumps(listed(sent)).encode(), asked("a", body=b"{}", encoding=encoding))
    assert json.loads(answer.body)["data"][0]["embedding"] == sent


@pytest.mark.parametrize(("encoding", "sent"), [("base64", [0.5, -1.0]), ("float", base64_of(0.5, -1.0))])
def test_an_encoding_that_was_not_asked_for_is_put_right(encoding, sent):
    request = asked("a", body=b"{}", encoding=encoding)
    answer = decode_answer(json.dumps(listed(sent)).encode(), request)
    assert answer.vectors == ((0.5, -1.0),)
    (item,) = json.loads(embeddings(request, answer))["data"]
    assert item["embedding"] == (base64_of(0.5, -1.0) if encoding == "base64" else [0.5, -1.0])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (listed([1.0]), "1 embeddings for 2 inputs"),
        (listed([1.0], [1.0], [1.0]), "3 embeddings for 2 inputs"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, "index 0"),
        ({"data": [{"index": 7, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}, "index 7"),
        (listed([1.0], [1.0, 2.0]), "differ in length"),
        (listed([1.0], []), "not a vector"),
        (listed([1.0], ["x"]), "not a vector"),
        (listed([1.0], None), "not a vector"),
        (listed("AAAA", "*"), "not a vector"),
        (listed("AAA=", "AAA="), "not a vector"),
        (listed(base64_of(float("nan")), base64_of(1.0)), "not a vector"),
        ({"object": "list"}, "no embeddings"),
        ({"data": 3}, "not the list"),
        (b"<html>", "not the list"),
        (b"", "not the list"),
        (b"\xff", "not the list"),
        (b"[" * 100_000, "not the list"),
    ],
)
def test_an_answer_that_is_not_one_vector_for_each_input(body, told):
    with pytest.raises(WorkerError, match=told) as raised:
        decode_answer(body if isinstance(body, bytes) else json.dumps(body).encode(), asked())
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


def test_an_error_in_place_of_an_answer():
    for error in ({"error": {"message": "too long", "code": 400}}, {"message": "too long", "code": 400}):
        with pytest.raises(WorkerError, match="too long") as raised:
            decode_answer(json.dumps(error).encode(), asked())
        assert raised.value.kind is WorkerErrorKind.BAD_REQUEST


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (whole({"error": {"message": "no", "code": "rate_limit_exceeded"}}, 429), WorkerErrorKind.RATE_LIMITED),
        (
            whole({"error": {"message": "not supported", "type": "not_supported_error"}}, 501),
            WorkerErrorKind.BAD_REQUEST,
        ),
        (whole(b"<html>", 502, "text/html"), WorkerErrorKind.UNAVAILABLE),
        (whole(b"{}" * 10)[:-5], WorkerErrorKind.RESET),
    ],
)
async def test_refusals_and_breaks(reply, kind):
    async with calling(says_and_closes(reply)) as (worker, _):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(asked())
        assert raised.value.kind is kind


async def test_a_body_that_is_no_object_is_not_sent():
    async with calling() as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(asked(body=b"[1]"))
        assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
        assert not backend.exchanges
