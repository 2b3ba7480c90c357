"""Keys, classes and limits at the edge: who is let in, and what every answer says of it."""

import asyncio
from typing import Any

import pytest

from config.schema import Config
from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.policy.access import key_hash
from tests.edge.scripted import ScriptedWorker
from tests.edge.wire import Answer, ask, chat, connected, post
from tests.flows import config
from tests.http import Serving, serving

PATH = "/v1/chat/completions"
OPEN = "Authorization: Bearer hg_open"


def keyed(*keys: dict[str, Any], **sections: Any) -> Config:
    """Keys named like what stands after `hg_` in them; `open` may do anything."""
    known = [{"name": "open", "class": "high"}, *keys]
    return config(keys=[{**key, "hash": key_hash(f"hg_{key['name']}")} for key in known], **sections)


def endings(server: Serving) -> list[tuple[Reason, Place]]:
    return [(ticket.ending.reason, ticket.ending.place) for ticket in server.books.ended if ticket.ending is not None]


async def say(server: Serving, *lines: str, **fields: Any) -> Answer:
    return await ask(server.port, post(chat(**fields), PATH, *lines))


@pytest.mark.parametrize("line", [OPEN, "authorization: bearer hg_open", "x-api-key: hg_open", "X-Api-Key:hg_open"])
@pytest.mark.parametrize("path", [PATH, "/v1/prompts"])
async def test_a_known_key_is_let_in(line, path):
    async with serving(keyed()) as server:
        body = chat() if path == PATH else {"route": "echo", "prompt": "hello"}
        assert (await ask(server.port, post(body, path, line))).status == 200
        (ticket,) = server.books.ended
        assert ticket.caller is not None
        assert (ticket.caller.name, ticket.priority) == ("open", Priority.HIGH)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Authorization: Bearer hg_other",),
        ("Authorization: Bearer hg_gone",),
        ("Authorization: Basic aGdfb3Blbg==",),
        ("Authorization: hg_open",),
        ("Authorization: Bearer",),
        ("x-api-key:",),
        (OPEN, OPEN),
        ("Authorization: Bearer hg_other", "x-api-key: hg_open"),
        (f"Authorization: Bearer {'k' * 8000}",),
        ("x-api-key: hg_\u00f6pen",),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/v1/prompts"])
async def test_any_other_is_refused_and_counted(lines, path):
    async with serving(keyed({"name": "gone", "revoked": True})) as server:
        answer = await ask(server.port, post(chat(), path, *lines))
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == 'Bearer realm="headgate"'
        assert b"hg_o" not in answer.body
        assert endings(server) == [(Reason.UNAUTHORIZED, Place.INGRESS)]
        assert server.books.ended[0].route == "-"


@pytest.mark.parametrize("lines", [("Content-Length: 1000000",), ("Content-Length: 9", "Expect: 100-continue")])
async def test_the_body_of_a_stranger_is_not_read(lines):
    async with serving(keyed()) as server, connected(server.port) as wire:
        await wire.send("\r\n".join([f"POST {PATH} HTTP/1.1", "Host: test", *lines, "", ""]).encode())
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        await wire.closed()


async def test_a_connection_outlives_a_refusal_whose_body_has_come():
    async with serving(keyed()) as server, connected(server.port) as wire:
        await wire.send(post(chat()) + post(chat(), PATH, OPEN))
        assert [(await wire.answer()).status, (await wire.answer()).status] == [401, 200]


async def test_without_keys_what_official_clients_send_is_ignored():
    async with serving(config()) as server:
        for line in ("Authorization: Bearer none", "Authorization: Basic x", "x-api-key: \u00f6"):
            assert (await say(server, line)).status == 200
        assert {ticket.caller.name for ticket in server.books.ended if ticket.caller is not None} == {"-"}


async def test_beside_keys_nobody_needs_one_where_the_configuration_says_so():
    conf = keyed(server={"anonymous": True, "anonymous_class": "low"})
    async with serving(conf) as server:
        assert (await say(server)).status == 200
        assert (await say(server, OPEN)).status == 200
        assert (await say(server, "x-api-key: hg_other")).status == 401
        assert [ticket.priority for ticket in server.books.ended[:2]] == [Priority.LOW, Priority.HIGH]


@pytest.mark.parametrize(
    ("asked", "given"), [("low", Priority.LOW), ("high", Priority.HIGH), ("critical", Priority.HIGH)]
)
async def test_a_request_may_lower_its_class(asked, given):
    async with serving(keyed()) as server:
        assert (await say(server, OPEN, f"X-Headgate-Class: {asked}")).status == 200
        assert server.books.ended[0].priority is given


@pytest.mark.parametrize(
    "lines", [("X-Headgate-Class: urgent",), ("X-Headgate-Class:",), ("X-Headgate-Class: low",) * 2]
)
async def test_a_class_that_there_is_not_is_refused(lines):
    async with serving(keyed()) as server:
        answer = await say(server, OPEN, *lines)
        assert (answer.status, answer.json["error"]["param"]) == (400, "X-Headgate-Class")
        assert endings(server)[0][0] is Reason.INVALID


async def test_a_timeout_that_comes_twice_is_refused():
    async with serving(config()) as server:
        answer = await say(server, "X-Request-Timeout-Ms: 5000", "X-Request-Timeout-Ms: 6000")
        assert (answer.status, answer.json["error"]["param"]) == (400, "X-Request-Timeout-Ms")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_route_that_the_key_may_not_use(stream):
    routes = [{"name": name, "worker": "echo"} for name in ("echo", "docs-qa")]
    async with serving(keyed({"name": "docs", "routes": ["docs-qa"]}, routes=routes)) as server:
        answer = await say(server, "x-api-key: hg_docs", stream=stream)
        assert (answer.status, answer.code, answer.json["error"]["param"]) == (403, "permission_denied", "model")
        assert (await say(server, "x-api-key: hg_docs", model="docs-qa")).status == 200
        assert (await say(server, "x-api-key: hg_docs", model="nope")).status == 404
        assert endings(server)[0] == (Reason.FORBIDDEN, Place.INGRESS)


async def test_requests_a_minute():
    async with serving(keyed({"name": "slow", "requests_per_minute": 1})) as server:
        first = await say(server, "x-api-key: hg_slow")
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert 50 < float(first.headers["x-ratelimit-reset-requests"].removesuffix("s").replace("1m0", "60")) <= 60
        assert "x-ratelimit-limit-tokens" not in first.headers
        second = await say(server, "x-api-key: hg_slow", stream=True)
        assert (second.status, second.code, second.json["error"]["type"]) == (429, "rate_limit_exceeded", "requests")
        assert 50 < int(second.headers["retry-after"]) <= 60
        assert 50_000 < int(second.headers["retry-after-ms"]) <= 60_000
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-headgate-shed-stage" not in second.headers
        assert (await say(server, OPEN)).status == 200
        assert endings(server)[1] == (Reason.REQUEST_LIMIT, Place.INGRESS)


async def test_every_answer_tells_the_limits_of_its_key():
    async with serving(keyed({"name": "app", "requests_per_minute": 600})) as server:
        answers = [
            await say(server, "x-api-key: hg_app", stream=True),
            await say(server, "x-api-key: hg_app", messages=[]),
            await say(server, "x-api-key: hg_app", model="nope"),
            await ask(server.port, post({"route": "echo", "prompt": "x"}, "/v1/prompts", "x-api-key: hg_app")),
        ]
        assert [answer.status for answer in answers] == [200, 400, 404, 200]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"600"}
        assert not any(name.startswith("x-ratelimit") for name in (await say(server, OPEN)).headers)


async def test_tokens_a_minute_are_estimated_and_then_settled():
    async with serving(keyed({"name": "app", "tokens_per_minute": 6000})) as server:
        answer = await say(server, "x-api-key: hg_app", text="hello there", max_tokens=5000)
        assert answer.status == 200
        used = answer.json["usage"]["total_tokens"]
        assert 0 < used < 100
        again = await say(server, "x-api-key: hg_app", max_tokens=100)
        assert again.status == 200  # which the estimate alone would have kept away for 40 seconds
        assert again.headers["x-ratelimit-limit-tokens"] == "6000"
        assert int(again.headers["x-ratelimit-remaining-tokens"]) <= 1000
        large = await say(server, "x-api-key: hg_app", max_tokens=6000)
        assert (large.status, large.code) == (413, "request_too_large")
        assert "6,000 a minute" in large.json["error"]["message"]
        assert endings(server)[2] == (Reason.TOO_LARGE, Place.INGRESS)


async def test_tokens_that_are_not_there_are_waited_for():
    async with serving(keyed({"name": "app", "tokens_per_minute": 6000})) as server:
        words = "word " * 3000
        assert (await say(server, "x-api-key: hg_app", text=words, max_tokens=1000)).status == 200
        answer = await say(server, "x-api-key: hg_app", max_tokens=100)
        assert (answer.status, answer.json["error"]["type"]) == (429, "tokens")
        assert int(answer.headers["retry-after"]) > 5
        assert endings(server)[1] == (Reason.TOKEN_LIMIT, Place.INGRESS)


async def test_requests_at_once():
    said = ScriptedWorker()
    conf = keyed({"name": "app", "concurrency": 1}, workers=[{"name": "said", "kind": "echo"}])
    async with serving(conf, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(), PATH, "x-api-key: hg_app"))
        await said.called.wait()
        answer = await say(server, "x-api-key: hg_app")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        assert endings(server) == [(Reason.CONCURRENCY_LIMIT, Place.INGRESS)]
        said.say("done", end=True)
        assert (await wire.answer()).status == 200
        said.say("done", end=True)
        assert (await say(server, "x-api-key: hg_app")).status == 200


async def test_a_place_is_free_again_when_its_client_has_left():
    said = ScriptedWorker()
    conf = keyed({"name": "app", "concurrency": 1}, workers=[{"name": "said", "kind": "echo"}])
    async with serving(conf, workers={"said": said}) as server:
        async with connected(server.port) as wire:
            await wire.send(post(chat(), PATH, "x-api-key: hg_app"))
            await said.called.wait()
            wire.reset()
        async with asyncio.timeout(1):
            await said.closed.wait()
        said.say("done", end=True)
        assert (await say(server, "x-api-key: hg_app")).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_request_got_less_of_is_told(stream):
    degrade = [{"kind": "shorter_answer", "max_tokens": 1, "pressure": 0.0}]
    async with serving(config(routes=[{"name": "echo", "worker": "echo", "degrade": degrade}])) as server:
        answer = await say(server, stream=stream)
        assert (answer.status, answer.headers["x-headgate-degraded"]) == (200, "max_tokens=1")
    async with serving(config()) as server:
        assert "x-headgate-degraded" not in (await say(server, stream=stream)).headers
