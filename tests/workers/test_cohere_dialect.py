"""Requests in Cohere's words, and what its errors mean."""

import json

import pytest

from tests.workers.helpers import NOW, ask
from workers.asked import asked
from workers.base import ChatMessage, EmbeddingRequest
from workers.cohere_dialect import encode_request, refused, usage_of
from workers.cohere_texts import decode_embedded, decode_tokenized, encode_embed, encode_tokenize
from workers.errors import WorkerError, WorkerErrorKind

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}}


def sent(*messages: dict, body: dict | bytes = b"", **fields) -> dict:
    raws = tuple([ChatMessage(one["role"], "", json.dumps(one).encode()) for one in messages])
    return json.loads(encode_request(ask(messages=raws or None, body=body, **fields), model=None))


def said(message: dict) -> dict:
    return sent(message)["messages"][0]


def test_the_least():
    assert sent() == {
        "model": "asked-for",
        "messages": [{"role": "user", "content": "hello there you"}],
        "stream": True,
    }
    assert json.loads(encode_request(ask(), model="command-a"))["model"] == "command-a"


def test_how_to_draw():
    body = {"top_k": 40, "frequency_penalty": 0.5, "presence_penalty": 0.25, "logit_bias": {"1": 2}, "user": "u"}
    got = sent(body=body, max_tokens=9, temperature=0.5, top_p=0.5, stop=("a", "b"), seed=3, stream=False)
    assert {name: got[name] for name in got if name not in ("messages", "model")} == {
        "stream": False,
        "max_tokens": 9,
        "temperature": 0.5,
        "p": 0.5,
        "k": 40,
        "stop_sequences": ["a", "b"],
        "seed": 3,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
    }


@pytest.mark.parametrize(("top_p", "p"), [(1.0, 0.99), (0.0, 0.01), (0.3, 0.3)])
def test_the_nearest_p_that_cohere_takes(top_p, p):
    assert sent(top_p=top_p)["p"] == p


def test_what_only_cohere_has_goes_by_its_own_name():
    body = {"documents": ["a"], "safety_mode": "STRICT", "citation_options": {"mode": "OFF"}}
    got = sent(body=body)
    assert {name: got[name] for name in body} == body


def test_an_image_of_the_user_and_of_nobody_else():
    text = {"type": "text", "text": "see"}
    assert said({"role": "user", "content": [text, PICTURE]})["content"] == [text, PICTURE]
    with pytest.raises(WorkerError) as raised:
        said({"role": "system", "content": [PICTURE]})
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
    assert "messages[0]" in raised.value.message


def test_reasoning_goes_back_where_it_came_from():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    told = {**call, "function": {"name": "f", "arguments": "{}"}}
    thought = {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}
    assert said(thought) == {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "So."}],
    }
    assert said({**thought, "content": None, "tool_calls": [call]}) == {
        "role": "assistant",
        "tool_plan": "Hm.",
        "tool_calls": [told],
    }


def test_tools():
    strict = {"type": "function", "function": {"name": "f", "description": "d", "strict": True}}
    got = sent(body={"tools": [strict], "tool_choice": "none"})
    nothing = {"type": "object", "properties": {}}
    assert got["tools"] == [{"type": "function", "function": {"name": "f", "description": "d", "parameters": nothing}}]
    assert (got["strict_tools"], got["tool_choice"]) == (True, "NONE")
    assert sent(body={"tools": [strict], "strict_tools": False})["strict_tools"] is False
    assert sent(body={"tools": [strict], "tool_choice": "required"})["tool_choice"] == "REQUIRED"
    assert "tool_choice" not in sent(body={"tools": [strict], "tool_choice": "auto"})


def test_json():
    assert sent(body={"response_format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert sent(body={"response_format": form})["response_format"] == {
        "type": "json_object",
        "json_schema": {"type": "object"},
    }


@pytest.mark.parametrize(
    ("body", "thinking"),
    [
        ({"reasoning_effort": "none"}, {"type": "disabled"}),
        ({"reasoning_effort": "low"}, {"type": "enabled"}),
        ({"thinking": {"type": "enabled", "token_budget": 9}}, {"type": "enabled", "token_budget": 9}),
    ],
)
def test_thinking(body, thinking):
    assert sent(body=body)["thinking"] == thinking
    assert "thinking" not in sent()


def error(status: int, body: object, **headers: str) -> WorkerError:
    return refused(status, headers, json.dumps(body).encode(), now=NOW, secrets=("sk-secret-1",))


@pytest.mark.parametrize(
    ("status", "message", "kind", "retryable"),
    [
        (400, "invalid request: no", "bad_request", False),
        (400, "too many tokens: total number of tokens in the prompt cannot exceed 1", "context_too_long", False),
        (400, "too many tokens: max tokens must be less than or equal to 4096", "bad_request", False),
        (400, "blocked input: please adjust", "content_filtered", False),
        (401, "no api key", "auth", False),
        (402, "pay", "rate_limited", False),
        (429, "trial token rate limit exceeded", "rate_limited", True),
        (498, "invalid token", "auth", False),
        (498, "Blocked Output: no", "content_filtered", False),
        (499, "request cancelled", "unavailable", True),
        (500, "oops", "unavailable", True),
        (503, "busy", "overloaded", True),
        (504, "late", "timeout", True),
    ],
)
def test_errors(status, message, kind, retryable):
    found = error(status, {"message": message})
    assert (found.kind, found.retryable, found.status) == (kind, retryable, status)
    assert (message in found.message) == (kind != "auth")


def test_an_error_keeps_the_wish_and_no_secret():
    found = error(429, {"message": "key sk-secret-1 is slow"}, **{"retry-after": "7"})
    assert found.retry_after == 7.0
    assert found.message == "the backend answered 429: key [secret] is slow"
    assert "sk-secret-1" not in error(498, {"message": "token sk-secret-1"}).message


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"tokens": {"input_tokens": 9.0, "output_tokens": 2.0}, "billed_units": {"input_tokens": 1}}, (9, 2, 0)),
        ({"billed_units": {"input_tokens": 4, "output_tokens": 2}}, (4, 2, 0)),
        ({"tokens": {"input_tokens": 9, "output_tokens": 2}, "cached_tokens": 5.0}, (9, 2, 5)),
        ({"tokens": {"input_tokens": 9}, "cached_tokens": 50}, (9, 0, 9)),
        ({"tokens": {"input_tokens": -1, "output_tokens": "x"}}, (0, 0, 0)),
        ({"tokens": []}, None),
        ({}, None),
        (None, None),
        ("many", None),
    ],
)
def test_usage(usage, counts):
    found = usage_of(usage)
    assert (found and (found.prompt_tokens, found.completion_tokens, found.cached_tokens)) == counts


def test_a_call_to_embed():
    request = EmbeddingRequest("req-1", "asked-for", ("a", "b"), dimensions=256, purpose="query")
    assert json.loads(encode_embed(request, ["a", "b"], model="embed-v4.0")) == {
        "model": "embed-v4.0",
        "texts": ["a", "b"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "output_dimension": 256,
    }
    other = json.loads(encode_embed(EmbeddingRequest("r", "m", ("a",)), ["a"], model=None))
    assert (other["input_type"], "output_dimension" in other) == ("search_document", False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        b'{"embeddings":{"float":[[1]]}}',  # for two texts
        b'{"embeddings":{"float":[[1,2],[1]]}}',
        b'{"embeddings":{"float":[[],[]]}}',
        b'{"embeddings":{"float":[["1"],[2]]}}',
        b'{"embeddings":{"int8":[[1],[2]]}}',
        b'{"embeddings":[[1],[2]]}',
        b'{"embeddings":{"float":' + b"[" * 100_000,
    ],
)
def test_vectors_that_are_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_embedded(body, ["a", "b"])
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


def test_what_is_counted():
    body = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    (piece,) = encode_tokenize(ask("hello", body=body), model="command-a")
    told = json.loads(piece)
    assert told["model"] == "command-a"
    assert "hello" in told["text"]
    assert '"name":"f"' in told["text"]
    assert decode_tokenized(b'{"tokens":[1,2,3],"token_strings":["a"]}') == 3


def test_long_texts_are_counted_in_pieces_and_images_not_at_all():
    pieces = encode_tokenize(ask("x" * 150_000), model=None)
    assert [len(json.loads(piece)["text"]) for piece in pieces] == [65_536, 65_536, 18_928]
    assert encode_tokenize(ask("x" * 600_000), model=None) is None
    message = {"role": "user", "content": [PICTURE]}
    request = ask(messages=(ChatMessage("user", "", json.dumps(message).encode()),))
    assert asked(request).turns[0].images
    assert encode_tokenize(request, model=None) is None
