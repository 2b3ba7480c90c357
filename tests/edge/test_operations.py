import pytest

from pipeline.core.ports import Readiness
from pipeline.policy.access import key_hash
from tests.edge.wire import ask, get
from tests.flows import config
from tests.http import serving

ROUTES = config(routes=[{"name": name, "worker": "echo"} for name in ("docs-qa", "team/llama:70b", "plain.v1")])


class Troubled:
    """A daemon that is not ready, and whose supervisor cannot be asked."""

    def readiness(self) -> Readiness:
        return Readiness(ready=False, detail={"knowledge": "starting", "shard 0": "ready"})

    async def metrics(self) -> bytes:
        raise ConnectionError("no supervisor")


class Counting(Troubled):
    async def metrics(self) -> bytes:
        return b"# TYPE headgate_x counter\nheadgate_x 1\n"


async def test_healthz_says_that_the_process_runs():
    async with serving(ROUTES, operations=Troubled()) as server:
        answer = await ask(server.port, get("/healthz"))
        assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_readyz_tells_every_part():
    async with serving(ROUTES) as server:
        answer = await ask(server.port, get("/readyz"))
        assert (answer.status, answer.json) == (200, {"ready": True, "detail": {"shard 0": "ready"}})
    async with serving(ROUTES, operations=Troubled()) as server:
        answer = await ask(server.port, get("/readyz"))
        assert answer.status == 503
        assert answer.json == {"ready": False, "detail": {"knowledge": "starting", "shard 0": "ready"}}


async def test_metrics_are_what_the_supervisor_renders():
    async with serving(ROUTES, operations=Counting()) as server:
        answer = await ask(server.port, get("/metrics"))
        assert (answer.status, answer.body) == (200, await Counting().metrics())
        assert answer.headers["content-type"].startswith("text/plain; version=")


async def test_metrics_without_a_supervisor_are_an_error():
    async with serving(ROUTES, operations=Troubled()) as server:
        answer = await ask(server.port, get("/metrics"))
        assert (answer.status, answer.code) == (503, "metrics_unavailable")


async def test_the_models_are_the_routes():
    async with serving(ROUTES) as server:
        answer = await ask(server.port, get("/v1/models"))
        assert answer.json["object"] == "list"
        assert [model["id"] for model in answer.json["data"]] == ["docs-qa", "team/llama:70b", "plain.v1"]
        assert {(model["object"], model["owned_by"]) for model in answer.json["data"]} == {("model", "headgate")}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("docs-qa", "docs-qa"),
        ("docs-qa?x=1", "docs-qa"),
        ("team/llama:70b", "team/llama:70b"),
        ("team%2Fllama%3A70b", "team/llama:70b"),
        ("plain%2ev1", "plain.v1"),
    ],
)
async def test_a_model_is_found_by_its_name(path, name):
    async with serving(ROUTES) as server:
        answer = await ask(server.port, get(f"/v1/models/{path}"))
        assert (answer.status, answer.json["id"]) == (200, name)


@pytest.mark.parametrize(
    "path", ["nope", "docs-qa/", "docs-q%61%00", "%ff%fe", "..", "a" * 5000, "%22%7B%5C", "docs%2Dqa2"]
)
async def test_a_model_that_is_not_there_is_told_as_openai_does(path):
    async with serving(ROUTES) as server:
        answer = await ask(server.port, get(f"/v1/models/{path}"))
        assert (answer.status, answer.code) == (404, "model_not_found")
        assert answer.json["error"]["param"] == "model"
        assert len(answer.json["error"]["message"]) < 1200


KEYED = config(
    routes=[{"name": name, "worker": "echo"} for name in ("docs-qa", "echo", "team/llama:70b")],
    keys=[
        {"name": "all", "hash": key_hash("hg_all")},
        {"name": "some", "hash": key_hash("hg_some"), "routes": ["team/llama:70b", "docs-qa"]},
    ],
)


async def test_the_models_are_those_that_a_key_may_use():
    async with serving(KEYED) as server:
        for key, names in (
            ("hg_all", ["docs-qa", "echo", "team/llama:70b"]),
            ("hg_some", ["docs-qa", "team/llama:70b"]),
        ):
            answer = await ask(server.port, get("/v1/models", f"Authorization: Bearer {key}"))
            assert [model["id"] for model in answer.json["data"]] == names
        allowed = await ask(server.port, get("/v1/models/team/llama:70b", "x-api-key: hg_some"))
        assert (allowed.status, allowed.json["id"]) == (200, "team/llama:70b")
        hidden = await ask(server.port, get("/v1/models/echo", "x-api-key: hg_some"))
        absent = await ask(server.port, get("/v1/models/nope", "x-api-key: hg_some"))
        assert (hidden.status, hidden.code) == (absent.status, absent.code) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo", "/v1/models/nope"])
@pytest.mark.parametrize("line", ["X-Other: 1", "Authorization: Bearer hg_other"])
async def test_the_models_need_a_key_where_prompts_do(path, line):
    async with serving(KEYED) as server:
        answer = await ask(server.port, get(path, line))
        assert (answer.status, answer.code) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == 'Bearer realm="headgate"'


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_what_monitors_read_needs_no_key(path):
    async with serving(KEYED) as server:
        assert (await ask(server.port, get(path))).status == 200
