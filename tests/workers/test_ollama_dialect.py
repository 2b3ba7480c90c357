"""Requests in Ollama's words, and what its errors mean."""

import json

import pytest

from tests.workers.helpers import NOW, ask, section
from workers.base import ChatMessage, EmbeddingRequest
from workers.errors import WorkerError, WorkerErrorKind
from workers.ollama_dialect import encode_embed, encode_request, error_kind, refused

SECTION = section("ollama", context_tokens=4096)
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def sent(*messages: dict, body: dict | bytes = b"", given=SECTION, **fields) -> dict:
    raws = tuple([ChatMessage(one["role"], "", json.dumps(one).encode()) for one in messages])
    return json.loads(encode_request(ask(messages=raws or None, body=body, **fields), given))


def refusal(*messages: dict, **fields) -> str:
    with pytest.raises(WorkerError) as raised:
        sent(*messages, **fields)
    assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.BAD_REQUEST, False)
    return raised.value.message


def picture(url: str) -> dict:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def test_the_least():
    assert sent() == {
        "model": "asked-for",
        "messages": [{"role": "user", "content": "hello there you"}],
        "stream": True,
        "options": {"num_ctx": 4096},
        "truncate": False,
    }
    assert sent(given=section("ollama", model="qwen3:8b"))["model"] == "qwen3:8b"


def test_how_to_draw():
    body = {"top_k": 40, "min_p": 0.05, "frequency_penalty": 0.5, "num_gpu": 0, "options": {"num_gpu": 0}}
    got = sent(body=body, max_tokens=9, temperature=0.5, top_p=0.9, stop=("a", "b"), seed=3, stream=False)
    assert got["options"] == {
        "num_ctx": 4096,
        "num_predict": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["a", "b"],
        "seed": 3,
        "top_k": 40,
        "min_p": 0.05,
        "frequency_penalty": 0.5,
    }
    assert got["stream"] is False


@pytest.mark.parametrize(("value", "told"), [("5m", "5m"), ("-1", -1), ("0", 0), ("300", 300), ("-1m", "-1m")])
def test_how_long_it_stays(value, told):
    given = section("ollama", keep_alive=value)
    assert sent(given=given)["keep_alive"] == told
    assert json.loads(encode_embed(EmbeddingRequest("r", "m", ("a",)), ["a"], given))["keep_alive"] == told
    assert "keep_alive" not in sent()


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")],
)
def test_how_much_to_think(effort, think):
    assert sent(body={"reasoning_effort": effort})["think"] == think
    assert "think" not in sent()


def test_json():
    assert sent(body={"response_format": {"type": "json_object"}})["format"] == "json"
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert sent(body={"response_format": form})["format"] == {"type": "object"}


def test_images_go_without_what_is_said_about_them():
    message = sent(picture("data:image/png;base64,iVBORw=="))["messages"][0]
    assert message == {"role": "user", "content": "", "images": ["iVBORw=="]}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://x.example/a.png", "data: URLs"),
        ("data:image/png,%89PNG", "data: URLs"),
        ("data:image/png;base64", "data: URLs"),
        ("file:///etc/passwd", "data: URLs"),
        ("data:image/png;base64,%", "not in base64"),
        ("data:image/png;base64,ü", "not in base64"),
        ("data:image/png;base64,iVBOR", "not in base64"),
    ],
)
def test_images_it_cannot_be_told(url, words):
    message = refusal(picture(url))
    assert words in message
    assert "messages[0]" in message


def test_calls_and_results():
    function = {"name": "f", "arguments": '{"big": 123456789012345678901234567890, "x": 1.50}'}
    call = {"id": "c1", "type": "function", "function": function}
    said = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]}
    results = [{"role": "tool", "tool_call_id": name, "content": "12"} for name in ("c1", "c2")]
    raws = tuple([ChatMessage(one["role"], "", json.dumps(one).encode()) for one in (said, *results)])
    body = encode_request(ask(messages=raws), SECTION)
    assert function["arguments"].encode() in body  # numbers as they were written
    assert json.loads(body)["messages"] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": json.loads(function["arguments"])}}],
        },
        {"role": "tool", "content": "12", "tool_call_id": "c1", "tool_name": "f"},
        {"role": "tool", "content": "12", "tool_call_id": "c2"},
    ]


@pytest.mark.parametrize("arguments", ["", "  "])
def test_no_arguments(arguments):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    message = sent({"role": "assistant", "tool_calls": [call]})["messages"][0]
    assert message["tool_calls"] == [{"function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", "null", '{"a":' + "[" * 100_000])
def test_arguments_that_are_no_object(arguments):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert "messages[0]: the arguments of the call of 'f'" in refusal({"role": "assistant", "tool_calls": [call]})


def test_tools():
    assert sent(body={"tools": [TOOL]})["tools"] == [TOOL]
    bare = {"type": "function", "function": {"name": "f"}}
    assert sent(body={"tools": [bare], "tool_choice": "auto"})["tools"] == [bare]
    assert "tools" not in sent(body={"tools": [TOOL], "tool_choice": "none"})
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        assert "tool_choice" in refusal(body={"tools": [TOOL], "tool_choice": choice})


def test_a_call_to_embed():
    request = EmbeddingRequest("req-1", "asked-for", ("a", "b"), dimensions=256)
    assert json.loads(encode_embed(request, ["a", "b"], SECTION)) == {
        "model": "asked-for",
        "input": ["a", "b"],
        "options": {"num_ctx": 4096},
        "truncate": False,
        "dimensions": 256,
    }
    ours = EmbeddingRequest("req-1", "m", ("a",), purpose="document")
    assert json.loads(encode_embed(ours, ["a"], SECTION))["truncate"] is True


def error(status: int, body: object, **headers: str) -> WorkerError:
    return refused(status, headers, json.dumps(body).encode(), now=NOW, secrets=("sk-secret-1",))


@pytest.mark.parametrize(
    ("status", "message", "kind", "retryable"),
    [
        (400, "invalid options: num_predict", "bad_request", False),
        (400, "the input length exceeds the context length", "context_too_long", False),
        (413, "the input length exceeds the context length", "context_too_long", False),
        (500, "the input length exceeds the context length", "context_too_long", False),
        (400, "the prompt is longer than the context length currently available", "context_too_long", False),
        (401, "unauthorized", "auth", False),
        (404, 'model "m" not found, try pulling it first', "bad_request", False),
        (429, "you have reached your hourly usage limit", "rate_limited", True),
        (499, "request canceled", "unavailable", True),
        (500, "model requires more system memory (9.9 GiB) than is available (7.6 GiB)", "unavailable", True),
        (503, "server busy, please try again.  maximum pending requests exceeded", "overloaded", True),
    ],
)
def test_errors(status, message, kind, retryable):
    found = error(status, {"error": message})
    assert (found.kind, found.retryable, found.status) == (kind, retryable, status)
    assert (" ".join(message.split()) in found.message) == (kind != "auth")


def test_the_error_of_the_server_behind_it():
    inner = {"error": {"code": 400, "message": "request (8889 tokens) exceeds …", "type": "exceed_context_size_error"}}
    found = error(400, {"error": json.dumps(inner)})
    assert (found.kind, found.message) == (
        WorkerErrorKind.CONTEXT_TOO_LONG,
        "the backend answered 400: request (8889 tokens) exceeds …",
    )


def test_an_error_keeps_the_wish_and_no_secret():
    found = error(503, {"error": "busy with sk-secret-1"}, **{"retry-after": "3"})
    assert (found.retry_after, found.message) == (3.0, "the backend answered 503: busy with [secret]")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Server busy, please try again", "overloaded"),
        ("the input length exceeds the context length", "context_too_long"),
        ("API Error: Too Many Requests", "rate_limited"),
        ("unauthorized", "auth"),
        ("registry.ollama.ai/library/m does not support tools", "bad_request"),
        ("an error was encountered while running the model", None),
        ("", None),
    ],
)
def test_what_an_error_without_a_status_says(words, kind):
    assert error_kind(words) == kind
