"""What the `openai` worker finds out about the server behind its dialect: tokenizers, slots, the model's window."""

import asyncio

import msgspec
import pytest

from tests.servers import Exchange, Script, says, whole
from tests.workers.helpers import ask, calling
from workers.base import CountingWorker
from workers.errors import WorkerError
from workers.openai_servers import root


def server(**paths: bytes) -> Script:
    """Answers by path; anything else is not there. Names have underscores for slashes and hyphens."""

    async def script(exchange: Exchange) -> None:
        name = exchange.path.strip("/").replace("/", "_").replace("-", "_")
        await says(paths.get(name, whole({"error": {"message": "File Not Found", "code": 404}}, 404)))(exchange)

    return script


MODELS = whole({"object": "list", "data": [{"id": "m", "object": "model"}]})
VLLM_COUNT = whole({"count": 7, "max_model_len": 4096, "tokens": [1, 2, 3, 4, 5, 6, 7]})


def called(backend) -> list[str]:
    return [exchange.path for exchange in backend.exchanges]


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/openai/v1", "http://h:1/openai"),
        ("http://h:1/v1beta", "http://h:1"),
        ("http://h:1/api/paas/v4", "http://h:1/api/paas"),
        ("http://h:1", "http://h:1"),
        ("http://h:1/vone", "http://h:1/vone"),
    ],
)
def test_the_root_of_a_server(url, at):
    assert root(url) == at


async def test_vllm_counts_a_conversation():
    async with calling(server(tokenize=VLLM_COUNT), model="theirs") as (worker, backend):
        assert isinstance(worker, CountingWorker)
        body = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}], "top_p": 1}
        for _ in range(2):
            assert await worker.count_tokens(ask("hi", body=body, rewritten=False)) == 7
    assert called(backend) == ["/tokenize", "/tokenize"]
    asked = {"tools": [{"type": "function"}], "model": "theirs", "messages": [{"role": "user", "content": "hi"}]}
    assert backend.exchanges[0].json == asked


async def test_llama_cpp_counts_what_its_template_makes_of_it():
    async def script(exchange: Exchange) -> None:
        if exchange.path == "/apply-template":
            await says(whole({"prompt": "user: hi"}))(exchange)
        else:
            given = exchange.json.get("content")
            tokens = list(range(9)) if given == "user: hi" and exchange.json["add_special"] else []
            await says(whole({"tokens": tokens}))(exchange)

    async with calling(script) as (worker, backend):
        assert await worker.count_tokens(ask("hi")) == 9
        assert await worker.count_tokens(ask("hi")) == 9
    assert called(backend) == ["/tokenize", "/apply-template", "/tokenize", "/apply-template", "/tokenize"]


@pytest.mark.parametrize("status", [401, 404, 405, 501])
async def test_a_server_that_cannot_count_is_asked_once(status):
    async with calling(server(tokenize=whole({"error": "no"}, status))) as (worker, backend):
        for _ in range(3):
            assert await worker.count_tokens(ask()) is None
    assert called(backend) == ["/tokenize"]


async def test_one_that_takes_something_else_there_is_soon_left_alone():
    """TGI's wants `inputs`."""
    async with calling(server(tokenize=whole({"error": "missing field inputs"}, 422))) as (worker, backend):
        for _ in range(9):
            assert await worker.count_tokens(ask()) is None
    assert len(backend.exchanges) == 3


async def test_a_request_that_vllm_cannot_count_leaves_the_next_one_alone():
    async with calling(server(tokenize=VLLM_COUNT)) as (worker, backend):
        assert await worker.count_tokens(ask()) == 7
        backend.script = server(tokenize=whole({"error": {"message": "bad image"}}, 400))
        for _ in range(5):
            assert await worker.count_tokens(ask()) is None
        backend.script = server(tokenize=VLLM_COUNT)
        assert await worker.count_tokens(ask()) == 7


async def test_a_prompt_that_is_no_conversation_is_counted_as_it_is():
    request = msgspec.structs.replace(ask("once"), native=b"{}", native_dialect="completions")
    async with calling(server(tokenize=VLLM_COUNT)) as (worker, backend):
        assert await worker.count_tokens(request) == 7
        assert backend.exchanges[0].json["prompt"] == "once"
    async with calling(server(tokenize=whole({"tokens": [1, 2]}))) as (worker, backend):
        assert await worker.count_tokens(request) == 2
        assert called(backend) == ["/tokenize", "/tokenize"]


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b'{"count": "x"}', b'{"tokens": 3}', b"\xff"])
async def test_nonsense_is_no_count(reply):
    paths = dict.fromkeys(("tokenize", "apply_template"), whole(reply))
    async with calling(server(**paths)) as (worker, _):
        assert await worker.count_tokens(ask()) is None


async def test_a_server_that_is_away_is_an_error_and_nothing_is_remembered():
    async def gone(exchange: Exchange) -> None:
        exchange.reset()

    async with calling(gone) as (worker, backend):
        with pytest.raises(WorkerError):
            await worker.count_tokens(ask())
        backend.script = server(tokenize=VLLM_COUNT)
        assert await worker.count_tokens(ask()) == 7


PROPS = whole({"total_slots": 4, "default_generation_settings": {"n_ctx": 2048, "params": {}}, "x": 1})
SLOTS = whole([{"id": 0, "n_ctx": 512}, {"id": 1, "n_ctx": 512}])


@pytest.mark.parametrize(
    ("paths", "slots", "context"),
    [
        ({"props": PROPS, "slots": SLOTS}, 4, 2048),
        ({"slots": SLOTS}, 2, 512),
        ({"v1_models": whole({"data": [{"id": "m", "max_model_len": 8192}]})}, None, 8192),
        ({"v1_models": whole({"data": [{"id": "m", "meta": {"n_ctx": 1024}}]}), "props": whole(b"{}")}, None, 1024),
        ({"v1_models": whole({"data": [{"id": "m", "max_model_len": 1}, {"id": "n"}]})}, None, None),
        ({"props": whole(b"<html>", 200, "text/html"), "slots": whole(b"[]")}, None, None),
        ({"props": whole({"total_slots": -1}), "slots": whole({"error": "disabled"}, 501)}, None, None),
    ],
)
async def test_what_a_server_can_take(paths, slots, context):
    async with calling(server(**{"v1_models": MODELS, **paths})) as (worker, _):
        health = await worker.health()
    assert (health.ok, health.slots, health.context_tokens) == (True, slots, context)


async def test_it_is_looked_for_once_and_again_after_the_server_was_away():
    async with calling(server(v1_models=MODELS, props=PROPS)) as (worker, backend):
        for _ in range(3):
            assert (await worker.health()).slots == 4
        assert called(backend) == ["/v1/models", "/props", "/v1/models", "/v1/models"]
        backend.script = says(whole(b"", 503))
        assert not (await worker.health()).ok
        backend.script = server(v1_models=MODELS, tokenize=VLLM_COUNT)
        assert (await worker.health()).slots is None
        assert (await worker.health()).ok
        assert called(backend)[5:] == ["/v1/models", "/props", "/slots", "/v1/models"]


async def test_a_server_without_a_list_of_models_is_well():
    async with calling(server(props=PROPS)) as (worker, _):
        assert (await worker.health()).slots == 4


@pytest.mark.slow
async def test_what_is_only_good_to_know_keeps_no_verdict_waiting():
    async def script(exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await says(MODELS)(exchange)
        else:
            await exchange.gone.wait()

    async with calling(script) as (worker, _):
        async with asyncio.timeout(1.8):
            health = await worker.health()
        assert (health.ok, health.slots) == (True, None)


async def test_no_secret_in_what_a_server_says_of_itself():
    async with calling(says(whole({"error": "sk-secret-1"}, 500)), api_key="sk-secret-1") as (worker, _):
        health = await worker.health()
        assert not health.ok
        assert "sk-secret" not in health.detail
