import pytest

from tests.edge.wire import ask, connected, get, post
from tests.flows import config
from tests.http import serving

CONFIG = config()


@pytest.mark.parametrize(
    ("request_bytes", "status", "code", "allow"),
    [
        (get("/"), 404, "unknown_url", None),
        (get("/v1"), 404, "unknown_url", None),
        (get("/v1/"), 404, "unknown_url", None),
        (get("/v1/models/"), 404, "unknown_url", None),
        (get("/v1/chat/completions/"), 404, "unknown_url", None),
        (get("//healthz"), 404, "unknown_url", None),
        (post(b"{}", "/v1/nowhere"), 404, "unknown_url", None),
        (post(b"{}", "/" + "x" * 1000), 404, "unknown_url", None),
        (get("/v1/chat/completions"), 405, "method_not_allowed", "POST, OPTIONS"),
        (get("/v1/prompts", method="DELETE"), 405, "method_not_allowed", "POST, OPTIONS"),
        (get("/v1/chat/completions", method="HEAD"), 405, None, "POST, OPTIONS"),
        (get("/healthz", method="TRACE"), 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        (post(b"", "/v1/models"), 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        (post(b"", "/v1/models/echo"), 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 404, "unknown_url", None),
    ],
)
async def test_what_is_not_served_is_told_in_json(request_bytes, status, code, allow):
    async with serving(CONFIG) as server:
        answer = (
            await ask_for_head(server.port, request_bytes) if code is None else await ask(server.port, request_bytes)
        )
        assert answer.status == status
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers.get("allow") == allow
        assert answer.headers["x-request-id"]
        if code is not None:
            assert answer.code == code
            assert len(answer.json["error"]["message"]) < 400
        assert not server.books.opened


async def ask_for_head(port: int, request_bytes: bytes):
    async with connected(port) as wire:
        await wire.send(request_bytes)
        return await wire.head()


@pytest.mark.parametrize(
    "target", ["/healthz?x=1", "/healthz#here", "/%68ealthz", "http://127.0.0.1/healthz", "/healthz?%ff"]
)
async def test_a_path_may_be_written_in_many_ways(target):
    async with serving(CONFIG) as server:
        assert (await ask(server.port, get(target))).status == 200


async def test_head_is_get_without_a_body():
    async with serving(CONFIG) as server, connected(server.port) as wire:
        await wire.send(get("/v1/models", method="HEAD"))
        head = await wire.head()
        await wire.send(get("/v1/models"))
        answer = await wire.answer()
        assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))


@pytest.mark.parametrize(
    ("target", "allow"),
    [("/v1/chat/completions", "POST, OPTIONS"), ("/healthz", "GET, HEAD, OPTIONS"), ("*", "OPTIONS")],
)
async def test_options_says_which_methods_there_are(target, allow):
    async with serving(CONFIG) as server, connected(server.port) as wire:
        for _ in range(2):  # the first must not have left a body behind
            await wire.send(get(target, method="OPTIONS"))
            head = await wire.head()
            assert (head.status, head.headers["allow"]) == (204, allow)
            assert "content-length" not in head.headers


async def test_every_answer_says_who_gave_it():
    async with serving(CONFIG) as server:
        for request in (get("/healthz"), get("/nowhere"), post(b"{")):
            answer = await ask(server.port, request)
            assert answer.headers["x-headgate-shard"] == "0"
            assert answer.headers["server"] == "headgate"
            assert answer.headers["date"]
