"""What the admin API answers, over real sockets."""

import asyncio

import pytest

from config.errors import ConfigError, Problem
from pipeline.core.outcomes import Place, Reason
from pipeline.observe.layout import REASONS
from pipeline.process.control import ReloadFailed
from pipeline.process.errors import StartError
from tests.process.operators import HA, config, operated

BIG = "/workers/a%2Fbig%3Amodel.v1"


@pytest.fixture
async def operator(tmp_path):
    async with operated(tmp_path) as operator:
        yield operator


def cells(operator, shard: int):
    return operator.memory.blocks[shard]


class TestReading:
    async def test_the_daemons_state(self, operator):
        status, answer = await operator.call("GET", "/status")
        assert status == 200
        assert (answer["version"], answer["admin"]) == ("1.2.3", operator.desk.address)
        assert [process["name"] for process in answer["processes"]] == ["supervisor", "shard 0", "shard 1"]

    @pytest.mark.parametrize("by", ["", "keys", "key,,route", "worker,model", "key, route"])
    async def test_usage_by_what_there_is_not(self, operator, by):
        status, code, message = await operator.failed("GET", f"/usage?by={by.replace(' ', '%20')}")
        assert (status, code) == (400, "invalid_value")
        assert "key, route, worker" in message
        assert (await operator.failed("GET", "/usage?since=1"))[:2] == (400, "unknown_parameter")

    async def test_usage_of_nobody_is_nothing(self, operator):
        status, answer = await operator.call("GET", "/usage?by=worker,key")
        assert (status, answer["rows"], answer["total"]["requests"]) == (200, [], 0)

    async def test_each_shard_with_its_process_and_its_requests(self, operator):
        layout = operator.control.ledger.layout
        operator.memory.seats[1].load = 5
        block, route = cells(operator, 1), layout.routes["echo"]
        block[layout.opened] = 7
        block[route.offered] = 6
        block[route.outcomes + Place.STREAM * len(REASONS) + REASONS.index(Reason.DONE)] = 4
        block[layout.connections] = 3
        _, answer = await operator.call("GET", "/shards")
        assert [shard["shard"] for shard in answer] == [0, 1]
        assert [(p["pid"], p["load"]) for p in answer[1]["processes"]] == [(101, 5)]
        figures = answer[1]["figures"]
        assert (figures["connections"], figures["unrouted"]) == (3, 1)
        assert (figures["requests"]["offered"], figures["requests"]["open"]) == (6, 2)
        assert figures["requests"]["outcomes"]["completed"] == 4
        assert answer[0]["figures"]["requests"]["offered"] == 0

    async def test_stages_add_up_and_stand_for_each_shard(self, operator):
        where = operator.control.ledger.layout.stages[Place.INFERENCE]
        for shard, depth in enumerate((4, 6)):
            cells(operator, shard)[where.depth] = depth
            cells(operator, shard)[where.capacity] = 100
        _, answer = await operator.call("GET", "/stages")
        assert [stage["name"] for stage in answer] == ["rag", "assemble", "inference", "post", "stream"]
        inference = answer[2]
        assert (inference["depth"], inference["capacity"]) == (10, 200)
        assert {shard: one["depth"] for shard, one in inference["shards"].items()} == {"0": 4, "1": 6}

    async def test_a_workers_wait_is_that_of_the_shard_where_it_is_longest(self, operator):
        where = operator.control.ledger.layout.workers["echo"]
        for shard, (waiting, seconds) in enumerate(((2, 1.5), (3, 0.5))):
            block = cells(operator, shard)
            block[where.waiting + 1] = waiting
            block[where.limit] = 8
            block[where.estimated_wait] = int(seconds * 1e9)
            block[where.allowed_wait] = int((2 + seconds) * 1e9)
        _, answer = await operator.call("GET", "/workers")
        figures = answer[0]["figures"]
        assert (figures["limit"], figures["waiting"]["high"]) == (16, 5)
        assert (figures["estimated_wait_s"], figures["allowed_wait_s"]) == (1.5, 2.5)

    async def test_each_replica_is_shown_as_the_shard_says_that_thinks_the_worst_of_it(self, operator):
        where = operator.control.ledger.layout.workers["echo"]
        for shard, state in enumerate((1, 3)):
            block, replica = cells(operator, shard), where.replicas["0"]
            for cell, value in zip(replica, (state, 1, 2, 1_500_000_000 * shard, 10, 6 * shard), strict=True):
                block[cell] = value
            block[where.retries] = block[where.fallbacks] = 1 + shard
        _, answer = await operator.call("GET", "/workers/echo")
        assert (answer["figures"]["retries"], answer["figures"]["fallbacks"]) == (3, 3)
        assert answer["figures"]["replicas"] == [
            {
                "name": "0",
                "state": "open",
                "healthy": True,
                "in_flight": 4,
                "calls": 20,
                "failures": 6,
                "reopens_s": 0.0,
            }
        ]

    async def test_who_falls_back_on_a_worker(self, tmp_path):
        routes = [{"name": "echo", "worker": "echo", "fallback": ["spare", "a/big:model.v1"]}]
        async with operated(tmp_path, config(routes=routes)) as operator:
            _, answer = await operator.call("GET", "/workers")
        assert {worker["name"]: worker["fallback_of"] for worker in answer} == {
            "echo": [],
            "spare": ["echo"],
            "a/big:model.v1": ["echo"],
        }
        assert answer[1]["figures"]["replicas"] == []  # no shard has shown any yet

    async def test_who_uses_a_worker_and_with_which_weight(self, operator):
        _, answer = await operator.call("GET", "/workers")
        used = {worker["name"]: {r["name"]: r["weight"] for r in worker["routes"]} for worker in answer}
        assert used == {"echo": {"echo": 1.0, "both": 3.0}, "spare": {"both": 1.0}, "a/big:model.v1": {}}
        assert answer[2]["figures"] is None

    @pytest.mark.parametrize("path", ["/workers/a%2Fbig%3Amodel.v1", "/workers/a/big:model.v1"])
    async def test_secrets_are_references_and_headers_hidden(self, operator, path):
        status, answer = await operator.call("GET", path)
        assert status == 200
        assert (answer["kind"], answer["settings"]["api_key"]) == ("openai", "env:KEY")
        assert answer["settings"]["headers"] == {"X-Team": "***"}

    async def test_nothing_that_is_read_shows_a_header(self, operator):
        for path in ("/status", "/shards", "/stages", "/workers", "/routes", "/config", "/metrics"):
            async with operator.tcp.get(operator.desk.address + path) as response:
                assert response.status == 200
                assert "secret-team" not in await response.text(), path

    async def test_the_configuration_in_force(self, operator):
        _, answer = await operator.call("GET", "/config")
        assert answer["keys"]["routes[1].workers[0].weight"] == {"value": 3}
        assert answer["keys"]["server.backlog"] == {"value": 1024}

    async def test_a_route_with_its_workers(self, operator):
        _, answer = await operator.call("GET", "/routes/both")
        assert answer["workers"] == [{"name": "echo", "weight": 3.0}, {"name": "spare", "weight": 1.0}]
        assert answer["figures"]["offered"] == 0

    async def test_head_is_get_without_a_body(self, operator):
        async with operator.tcp.head(operator.desk.address + "/status") as response:
            assert (response.status, await response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) > 0


class TestWhatIsNotThere:
    async def test_an_unknown_path_lists_the_known_ones(self, operator):
        status, code, message = await operator.failed("GET", "/wrokers")
        assert (status, code) == (404, "unknown_url")
        assert "/routes/{name}/weights" in message

    async def test_an_unknown_name_lists_what_there_is(self, operator):
        for method, path, body in [
            ("GET", "/workers/ehco", None),
            ("DELETE", "/workers/ehco", None),
            ("POST", "/workers/ehco/drain", None),
            ("POST", "/workers/%00/undrain", None),
            ("PATCH", "/routes/both/weights", {"ehco": 1}),
        ]:
            status, code, message = await operator.failed(method, path, body)
            assert (status, code) == (404, "unknown_worker"), path
            assert message.endswith("there is echo, spare, a/big:model.v1"), path
        for method, path, body in [
            ("GET", "/routes/nope", None),
            ("DELETE", "/routes/nope", None),
            ("PATCH", "/routes/nope/weights", {"echo": 1}),
        ]:
            status, code, message = await operator.failed(method, path, body)
            assert (status, code) == (404, "unknown_route"), path
            assert message.endswith("there is echo, both"), path
        assert operator.control.applied == []

    async def test_a_wrong_method_says_which_are_right(self, operator):
        async with operator.tcp.post(operator.desk.address + "/workers/echo") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "DELETE, GET, PUT"
        async with operator.tcp.options(operator.desk.address + "/drain") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


class TestChanging:
    async def test_a_worker_is_added_and_counts_until_the_next_reload(self, operator):
        table = {"kind": "echo", "tokens": 9}
        status, answer = await operator.call("PUT", "/workers/n%2Fw", table)
        assert status == 200
        assert answer["persistent"] is False
        assert [change["path"] for change in answer["changed"]] == ["workers[n/w]"]
        assert operator.control.config.workers[-1].name == "n/w"
        _, answer = await operator.call("POST", "/reload")
        assert answer["persistent"] is True
        assert [(c["path"], c["after"]) for c in answer["changed"]] == [("workers[n/w]", None)]

    async def test_a_worker_is_swapped_where_it_stands(self, operator):
        status, answer = await operator.call("PUT", "/workers/echo", {"kind": "echo", "tokens": 5, "model": None})
        assert status == 422
        assert answer["error"]["problems"][0]["path"] == "workers[echo].model", "null is no way to hide a wrong key"
        status, answer = await operator.call("PUT", "/workers/echo", {"kind": "echo", "tokens": 5, "concurrency": None})
        assert status == 200
        assert answer["changed"] == [{"path": "workers[echo].tokens", "before": 0, "after": 5}]
        assert operator.control.config.workers[0].name == "echo"

    async def test_a_hidden_header_that_comes_back_keeps_its_value(self, operator):
        _, shown = await operator.call("GET", BIG)
        settings = shown["settings"] | {"model": "m2"}
        status, answer = await operator.call("PUT", BIG, settings)
        assert status == 200
        assert [change["path"] for change in answer["changed"]] == ["workers[a/big:model.v1].model"]
        assert operator.control.config.workers[2].headers == {"X-Team": "secret-team"}

    async def test_adding_never_replaces_and_swapping_never_adds(self, operator):
        add, swap = {"If-None-Match": "*"}, {"If-Match": "*"}
        echo = {"kind": "echo"}
        assert (await operator.failed("PUT", "/workers/echo", echo, headers=add))[:2] == (409, "exists")
        assert (await operator.failed("PUT", "/workers/new", echo, headers=swap))[:2] == (404, "unknown_worker")
        assert (await operator.call("PUT", "/workers/new", echo, headers=add))[0] == 200
        assert (await operator.call("PUT", "/workers/new", echo | {"tokens": 2}, headers=swap))[0] == 200
        answers = await asyncio.gather(*(operator.call("PUT", "/workers/raced", echo, headers=add) for _ in range(10)))
        assert sorted(status for status, _ in answers) == [200] + [409] * 9

    async def test_drain_and_undrain(self, operator):
        status, answer = await operator.call("POST", "/workers/a/big:model.v1/drain")
        assert status == 200
        assert answer["changed"] == [{"path": "workers[a/big:model.v1].drain", "before": False, "after": True}]
        assert (await operator.call("GET", BIG))[1]["drain"] is True
        assert (await operator.call("POST", BIG + "/undrain"))[1]["changed"][0]["after"] is False
        assert (await operator.call("POST", BIG + "/undrain"))[1]["changed"] == [], "it is as it was"

    async def test_a_worker_in_use_is_not_removed(self, operator):
        status, code, message = await operator.failed("DELETE", "/workers/spare")
        assert (status, code) == (409, "in_use")
        assert message.endswith("both")
        status, code, message = await operator.failed("DELETE", "/workers/echo?force=true")
        assert (status, code) == (409, "in_use")
        assert message == 'The worker "echo" is the only one of these routes: echo'
        status, _ = await operator.call("DELETE", "/workers/spare?force=true")
        assert status == 200
        assert [share.worker for share in operator.control.config.routes[1].workers] == ["echo"]
        assert (await operator.call("DELETE", BIG))[0] == 200

    async def test_weights(self, operator):
        status, answer = await operator.call("PATCH", "/routes/both/weights", {"spare": 5})
        assert status == 200
        assert [share.weight for share in operator.control.config.routes[1].workers] == [3, 5]
        await operator.call("PATCH", "/routes/echo/weights", {"spare": 0.5})
        route = operator.control.config.routes[0]
        assert route.worker is None
        assert [(share.worker, share.weight) for share in route.workers] == [("echo", 1), ("spare", 0.5)]
        await operator.call("PATCH", "/routes/echo/weights", {"echo": None})
        assert [share.worker for share in operator.control.config.routes[0].workers] == ["spare"]
        status, code, message = await operator.failed("PATCH", "/routes/echo/weights", {"spare": 0})
        assert (status, code) == (422, "invalid_configuration")
        assert message.startswith("routes[echo].workers[0].weight: found 0")
        status, answer = await operator.call("PATCH", "/routes/both/weights", {"echo": -1, "spare": "two"})
        assert status == 422
        paths = [problem["path"] for problem in answer["error"]["problems"]]
        assert paths == ["routes[both].workers[0].weight", "routes[both].workers[1].weight"]

    async def test_a_route_is_added_changed_and_removed(self, operator):
        table = {"worker": "spare", "system": "Be brief."}
        assert (await operator.call("PUT", "/routes/team/x", table))[0] == 200
        assert (await operator.call("GET", "/routes/team/x"))[1]["settings"]["system"] == "Be brief."
        status, answer = await operator.call("PUT", "/routes/team/x", {"worker": "nobody"})
        assert status == 422
        problem = answer["error"]["problems"][0]
        assert problem["path"] == "routes[team/x].worker"
        assert "echo, spare, a/big:model.v1" in problem["expected"]
        assert (await operator.call("DELETE", "/routes/team/x"))[0] == 200

    async def test_the_last_route_cannot_go(self, operator):
        assert (await operator.call("DELETE", "/routes/both"))[0] == 200
        status, code, message = await operator.failed("DELETE", "/routes/echo")
        assert (status, code) == (422, "invalid_configuration")
        assert message.startswith("routes: found an array of 0")

    async def test_all_that_is_wrong_is_said_with_its_key(self, operator):
        table = {"kind": "openai", "base_ulr": "http://x/v1", "api_key": "sk-live-123", "headers": {"a b": "v"}}
        status, answer = await operator.call("PUT", "/workers/new", table)
        assert status == 422
        problems = {problem["path"]: problem for problem in answer["error"]["problems"]}
        assert set(problems) == {
            "workers[new].base_ulr",
            "workers[new].base_url",
            "workers[new].api_key",
            'workers[new].headers."a b"',
        }
        assert problems["workers[new].base_ulr"]["hint"] == "base_url"
        assert "sk-live" not in str(answer)
        assert operator.control.applied == []

    async def test_files_must_be_named_from_the_root(self, operator, tmp_path):
        for kind, table, path in [
            ("workers", HA | {"name": "n", "api_key": "file:key"}, "workers[n].api_key"),
            ("routes", {"worker": "echo", "template_file": "t.j2"}, "routes[n].template_file"),
        ]:
            status, answer = await operator.call("PUT", f"/{kind}/n", table)
            assert (status, answer["error"]["problems"][0]["path"]) == (422, path)
        (tmp_path / "t.j2").write_text("{{ passages }}")
        table = {"worker": "echo", "template_file": str(tmp_path / "t.j2")}
        assert (await operator.call("PUT", "/routes/n", table))[0] == 200

    async def test_the_name_in_the_path_counts(self, operator):
        status, code, _ = await operator.failed("PUT", "/workers/echo", {"name": "other", "kind": "echo"})
        assert (status, code) == (400, "invalid_value")
        status, code, message = await operator.failed("PUT", "/workers/-x", {"kind": "echo"})
        assert (status, code) == (422, "invalid_configuration")
        assert 'found "-x", expected a name' in message

    async def test_what_a_shard_cannot_run_is_refused_as_a_whole(self, operator):
        before = operator.control.config
        operator.control.failure = ConfigError([Problem("workers[1].api_key", "no environment variable", "a secret")])
        assert (await operator.failed("POST", "/workers/echo/drain"))[:2] == (422, "invalid_configuration")
        operator.control.failure = ReloadFailed("shard 1 did not answer; nothing has changed")
        status, code, message = await operator.failed("POST", "/workers/echo/drain")
        assert (status, code) == (409, "not_applied")
        assert message == "shard 1 did not answer; nothing has changed"
        assert operator.control.config is before

    async def test_changes_come_one_after_another_and_none_is_lost(self, operator):
        names = [f"w{number}" for number in range(40)]
        answers = await asyncio.gather(
            *(
                operator.call("PUT", f"/workers/{name}", {"kind": "echo"}, unix=index % 2 == 0)
                for index, name in enumerate(names)
            )
        )
        assert {status for status, _ in answers} == {200}
        assert operator.control.most_busy == 1
        assert {worker.name for worker in operator.control.config.workers} >= set(names)

    async def test_a_change_whose_caller_leaves_goes_on_to_its_end(self, operator):
        operator.control.gate.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", operator.port)
        writer.write(b"POST /workers/echo/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        while not operator.control.busy:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        await operator.call("GET", "/status")
        operator.control.gate.set()
        while not operator.control.applied:
            await asyncio.sleep(0.001)
        assert operator.control.config.workers[0].drain is True

    async def test_a_change_that_fails_after_its_caller_left_disturbs_nobody(self, operator):
        operator.control.gate.clear()
        operator.control.failure = ReloadFailed("a shard did not answer")
        _, writer = await asyncio.open_connection("127.0.0.1", operator.port)
        writer.write(b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        while not operator.control.busy:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        operator.control.gate.set()
        assert (await operator.call("POST", "/workers/echo/drain"))[0] == 200


class TestTheDaemonItself:
    async def test_drain_replace_reload_and_level(self, operator):
        assert await operator.call("POST", "/drain") == (200, {"done": "draining"})
        assert await operator.call("POST", "/replace") == (200, {"done": "replaced"})
        status, answer = await operator.call("PUT", "/log-level", {"level": "debug"})
        assert (status, answer["done"]) == (200, "level debug, beside the configuration, until that is read again")
        assert operator.control.calls == ["drain", "replace", "level debug"]

    async def test_a_replacement_that_does_not_become_ready(self, operator):
        operator.control.failure = StartError("shard 0 was not ready within 60 s.")
        status, code, message = await operator.failed("POST", "/replace")
        assert (status, code) == (409, "not_replaced")
        assert message == "shard 0 was not ready within 60 s. The processes that were there go on"

    @pytest.mark.parametrize(
        ("body", "code", "param"),
        [
            ({"level": "loud"}, "invalid_value", "level"),
            ({"level": 1}, "invalid_value", "level"),
            ({"level": ["debug"]}, "invalid_value", "level"),
            ({}, "invalid_value", "level"),
            ({"levle": "debug"}, "unknown_parameter", "levle"),
            ([], "invalid_type", None),
            (None, "invalid_type", None),
        ],
    )
    async def test_a_level_that_is_none(self, operator, body, code, param):
        status, answer = await operator.call("PUT", "/log-level", body)
        assert (status, answer["error"]["code"], answer["error"].get("param")) == (400, code, param)
        assert operator.control.calls == []

    async def test_a_fault_of_ours_is_an_answer_too(self, operator):
        operator.control.failure = ZeroDivisionError("bug")
        status, code, message = await operator.failed("POST", "/reload")
        assert (status, code) == (500, "internal_error")
        assert "bug" not in message


async def test_with_many_keys_the_loop_goes_on_while_a_change_is_checked(tmp_path):
    keys = [{"name": f"k{number}", "hash": f"sha256:{number:064x}"} for number in range(3000)]
    async with operated(tmp_path, config(keys=keys)) as operator:
        change = asyncio.create_task(operator.call("POST", "/workers/echo/drain"))
        turns = 0
        while not change.done():
            await operator.call("GET", "/status", unix=True)
            turns += 1
        assert (await change)[0] == 200
        assert turns > 1
