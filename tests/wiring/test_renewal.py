"""A configuration that changes while requests run: what is new comes into force at once, and nobody who is in fails."""

import asyncio
import random
from typing import Any

import pytest

from config.errors import ConfigError
from config.schema import Config
from pipeline.core.access import Caller
from pipeline.core.errors import Overloaded, RateLimited, Unauthorized, UnknownModel
from pipeline.core.outcomes import Outcome, Priority, Reason
from pipeline.policy.access import key_hash
from pipeline.wiring import Pipeline
from tests.flows import config, running
from tests.wiring.backends import Backends, ask, renew, until
from workers.base import ChatMessage, Parameters

ECHO = {"name": "echo", "kind": "echo"}
OPENAI = {"name": "echo", "kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
ONE = {"stages": {"inference": {"concurrency": 1}}}
KEY = "hg_" + "k" * 43


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    return Backends(monkeypatch)


def pace(pipeline: Pipeline, hold: float, worker: str = "echo") -> None:
    """The worker is known to take so long."""
    for _ in range(30):
        pipeline.flow.lanes[worker].typical.ended(hold, hold, 1, 0.0, 1)


class TestWorkers:
    async def test_another_worker_serves_who_waits_and_the_old_one_ends_what_it_has(self, backends):
        backends.hold("echo")
        async with running(config(**ONE)) as (pipeline, _):
            first, waiting = ask(pipeline), ask(pipeline)
            await backends.until_called("echo", 1)
            renew(pipeline, workers=[ECHO | {"tokens": 7, "concurrency": 2}], **ONE)
            old, new = backends.built["echo"]
            await until(lambda: new.calls == 1)
            assert pipeline.workers == {"echo": new}
            await asyncio.sleep(0.05)  # ticks
            assert not old.closed
            backends.let_go("echo")
            assert [await sink.done() for _, sink in (first, waiting)] == ["echo 0", "echo 7"]
            await until(lambda: old.closed)
            assert await ask(pipeline)[1].done() == "echo 7"
            assert not new.closed
        assert new.closed

    @pytest.mark.parametrize(
        ("change", "another", "anew"),
        [
            ({}, False, False),
            ({"total_timeout_ms": 1, "answer_tokens": 70, "concurrency": 3, "requests_per_minute": 5}, False, False),
            ({"headers": {"X-Team": "a"}, "connect_timeout_ms": 1}, True, False),
            ({"base_url": "http://127.0.0.1:2/v1"}, True, True),
            ({"model": "large"}, True, True),
        ],
    )
    async def test_only_what_the_worker_is_made_of_makes_another(self, backends, change, another, anew):
        async with running(config(workers=[OPENAI])) as (pipeline, _):
            pace(pipeline, 0.5)
            lane = pipeline.flow.lanes["echo"]
            limiter = lane.limiter
            renew(pipeline, workers=[OPENAI | change])
            assert pipeline.flow.lanes["echo"] is lane
            assert (len(backends.built["echo"]) == 2) == another
            assert (lane.typical.hold == 0.0) == anew
            assert (lane.limiter is not limiter) == (anew or "concurrency" in change)

    async def test_calls_under_way_say_nothing_of_another_model(self, backends):
        backends.hold("echo")
        async with running(config(workers=[OPENAI])) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(3)]
            await backends.until_called("echo", 3)
            renew(pipeline, workers=[OPENAI | {"model": "large"}])
            backends.let_go("echo")
            for _, sink in asked:
                await sink.done()
            lane = pipeline.flow.lanes["echo"]
            await until(lambda: lane.empty)
            assert lane.typical.hold == 0.0
            await ask(pipeline)[1].done()
            await until(lambda: lane.empty)
            assert lane.typical.hold > 0.0

    async def test_nor_does_what_they_are_refused_with(self, backends):
        async with running(config(workers=[OPENAI])) as (pipeline, _):
            lane = pipeline.flow.lanes["echo"]
            renew(pipeline, workers=[OPENAI | {"model": "large"}])
            now, limit = pipeline.ingress.now(), lane.limit
            lane.push_back(None, limit, now, now - 5.0)
            assert (lane.limit, lane.pushed_back) == (limit, 1)
            lane.push_back(None, limit, now, now)
            assert lane.limit < limit
            assert lane.pushed_back == 2

    async def test_another_secret_makes_another_worker(self, backends, tmp_path):
        secret = tmp_path / "key"
        secret.write_text("one")
        worker = OPENAI | {"api_key": f"file:{secret}"}
        async with running(config(workers=[worker])) as (pipeline, _):
            renew(pipeline, workers=[worker])
            assert len(backends.built["echo"]) == 1
            secret.write_text("two")
            renew(pipeline, workers=[worker])
            assert len(backends.built["echo"]) == 2

    async def test_a_worker_that_is_gone_is_closed_when_nothing_waits_for_it_any_more(self, backends):
        backends.hold("echo")
        async with running(config(**ONE)) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(3)]
            await backends.until_called("echo", 1)
            renew(pipeline, workers=[{"name": "other", "kind": "echo"}], routes=[{"name": "echo", "worker": "other"}])
            assert await ask(pipeline)[1].done() == "other 0"
            assert set(pipeline.flow.lanes) == {"echo", "other"}
            backends.let_go("echo", 1)
            assert await asked[0][1].done() == "echo 0"
            assert not backends.built["echo"][0].closed
            backends.let_go("echo")
            assert [await sink.done() for _, sink in asked[1:]] == ["echo 0"] * 2
            await until(lambda: set(pipeline.flow.lanes) == {"other"})
            await until(lambda: backends.built["echo"][0].closed)

    async def test_one_that_comes_back_while_its_lane_is_still_there_gets_it_back(self, backends):
        backends.hold("echo")
        other = {"workers": [{"name": "other", "kind": "echo"}], "routes": [{"name": "o", "worker": "other"}]}
        async with running(config(**ONE)) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(3)]
            await backends.until_called("echo", 1)
            lane = pipeline.flow.lanes["echo"]
            renew(pipeline, **ONE, **other)
            renew(pipeline, **ONE)
            assert pipeline.flow.lanes["echo"] is lane
            asked += [ask(pipeline) for _ in range(3)]
            assert sum(lane.waiting) == 5
            backends.let_go("echo")
            assert [await sink.done() for _, sink in asked] == ["echo 0"] * 6
            await until(lambda: set(pipeline.flow.lanes) == {"echo"})
            await until(lambda: [b.closed for b in backends.built["echo"]] == [True, False])

    async def test_more_places_are_used_at_once(self, backends):
        backends.hold("echo")
        async with running(config(**ONE)) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(6)]
            await backends.until_called("echo", 1)
            renew(pipeline, workers=[ECHO | {"concurrency": 4}])
            await backends.until_called("echo", 4)
            renew(pipeline, workers=[ECHO | {"concurrency": 1}])
            backends.let_go("echo", 3)
            await until(lambda: backends.built["echo"][0].calls == 1)
            backends.let_go("echo")
            for _, sink in asked:
                await sink.done()


class TestRoutes:
    async def test_who_is_in_keeps_the_route_that_it_came_in_with(self, backends):
        backends.hold("echo")
        old = {"name": "echo", "worker": "echo", "system": "Old.", "filters": [{"kind": "redact", "pattern": "O"}]}
        async with running(config(**ONE, routes=[old])) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(4)]
            await backends.until_called("echo", 1)
            renew(pipeline, **ONE, routes=[{"name": "echo", "worker": "echo", "system": "New."}])
            asked.append(ask(pipeline))
            renew(pipeline, **ONE, routes=[{"name": "another", "worker": "echo"}])
            gone, sink = ask(pipeline)
            with pytest.raises(UnknownModel, match="there is: another"):
                await sink.done()
            assert gone.route == "-"
            asked.append(ask(pipeline, model="another"))
            backends.let_go("echo")
            answers = [await sink.done() for _, sink in asked]
            assert answers == ["echo 0 [redacted]ld."] * 4 + ["echo 0 New.", "echo 0"]

    async def test_holders_of_the_routes_see_the_new_ones(self, backends):
        async with running(config()) as (pipeline, _):
            routes = pipeline.ingress.routes
            renew(pipeline, routes=[{"name": "b", "worker": "echo"}, {"name": "a", "worker": "echo"}])
            assert list(routes) == ["b", "a"]

    async def test_deadlines_are_the_new_ones(self, backends):
        backends.hold("echo")
        async with running(config()) as (pipeline, _):
            before, _ = ask(pipeline)
            renew(pipeline, server={"deadline_ms": 30})
            ticket, _ = ask(pipeline)
            await until(lambda: ticket.ending is not None)
            assert ticket.ending.outcome is Outcome.EXPIRED
            assert before.ending is None
            backends.let_go("echo")


class TestKeys:
    def key(self, **fields: Any) -> dict[str, Any]:
        return {"name": "team", "hash": key_hash(KEY), **fields}

    def caller(self, pipeline: Pipeline) -> Caller:
        return pipeline.ingress.access.caller(KEY)

    async def test_limits_keep_their_state(self, backends):
        backends.hold("echo")
        limits = {"concurrency": 2, "requests_per_minute": 24}  # four at once
        async with running(config(keys=[self.key(**limits)])) as (pipeline, _):
            asked = [ask(pipeline, caller=self.caller(pipeline)) for _ in range(2)]
            renew(pipeline, keys=[self.key(**limits)])
            await self.refused(pipeline, Reason.CONCURRENCY_LIMIT)
            renew(pipeline, keys=[self.key(**limits | {"concurrency": 10})])
            asked += [ask(pipeline, caller=self.caller(pipeline)) for _ in range(2)]
            await self.refused(pipeline, Reason.REQUEST_LIMIT)
            renew(pipeline, keys=[self.key(concurrency=4)])
            await self.refused(pipeline, Reason.CONCURRENCY_LIMIT)
            backends.let_go("echo")
            for _, sink in asked:
                await sink.done()
            assert await ask(pipeline, caller=self.caller(pipeline))[1].done() == "echo 0"

    async def refused(self, pipeline: Pipeline, reason: Reason) -> None:
        ticket, sink = ask(pipeline, caller=self.caller(pipeline))
        assert ticket.ending is not None
        assert ticket.ending.reason is reason
        with pytest.raises(RateLimited):
            await sink.done()

    async def test_a_revoked_one_is_refused_from_then_on(self, backends):
        backends.hold("echo")
        async with running(config(keys=[self.key()])) as (pipeline, _):
            _, sink = ask(pipeline, caller=self.caller(pipeline))
            renew(pipeline, keys=[self.key(revoked=True)])
            with pytest.raises(Unauthorized, match="revoked"):
                self.caller(pipeline)
            backends.let_go("echo")
            assert await sink.done() == "echo 0"

    async def test_new_ones_their_classes_and_who_needs_none(self, backends):
        async with running(config()) as (pipeline, _):
            renew(pipeline, keys=[self.key(**{"class": "high"})], server={"anonymous": True, "anonymous_class": "low"})
            assert self.caller(pipeline).priority is Priority.HIGH
            assert pipeline.ingress.access.caller(None).priority is Priority.LOW
            renew(pipeline, keys=[self.key()])
            with pytest.raises(Unauthorized):
                pipeline.ingress.access.caller(None)

    async def test_those_that_have_not_changed_are_not_made_again(self, backends):
        other = {"name": "other", "hash": key_hash("hg_other")}
        async with running(config(keys=[self.key(concurrency=1), other])) as (pipeline, _):
            caller = self.caller(pipeline)
            renew(pipeline, keys=[other | {"weight": 2.0}, self.key(concurrency=1)])
            assert self.caller(pipeline) is caller
            renew(pipeline, keys=[other])
            with pytest.raises(Unauthorized, match="not known"):
                self.caller(pipeline)
            renew(pipeline, keys=[self.key(concurrency=1), other])
            assert self.caller(pipeline) is not caller


class TestBounds:
    async def test_a_queue_that_shrinks_keeps_what_it_holds_and_takes_nothing_new(self, backends):
        backends.hold("echo")
        small = {"stages": {"inference": {"concurrency": 1, "capacity": 2}}, "admission": {"wait_budget_ms": "off"}}
        async with running(config(**ONE)) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(6)]
            await backends.until_called("echo", 1)
            renew(pipeline, **small)
            ticket, sink = ask(pipeline)
            assert ticket.ending is not None
            assert ticket.ending.reason is Reason.QUEUE_FULL
            with pytest.raises(Overloaded):
                await sink.done()
            renew(pipeline, **ONE)
            asked.append(ask(pipeline))
            backends.let_go("echo")
            for _, sink in asked:
                assert await sink.done() == "echo 0"

    async def test_stages_take_other_bounds_with_all_that_is_in_them(self, backends):
        backends.hold("echo")
        tiny = {stage: {"capacity": 1, "concurrency": 1} for stage in ("rag", "assemble", "post", "stream")}
        filtered = [{"name": "echo", "worker": "echo", "filters": [{"kind": "max_length", "chars": 99}]}]
        async with running(config(routes=filtered)) as (pipeline, _):
            asked = [ask(pipeline) for _ in range(8)]
            await backends.until_called("echo", 8)
            renew(pipeline, stages=tiny, routes=filtered)
            asked += [ask(pipeline) for _ in range(4)]
            backends.let_go("echo")
            for _, sink in asked:
                assert await sink.done() == "echo 0"
            big = ChatMessage("user", "word " * 20_000)
            wide = [ECHO | {"context_tokens": 100_000}]
            for threads in (1, 3):
                renew(pipeline, stages={"assemble": {"concurrency": threads}}, workers=wide)
                assert await ask(pipeline, messages=(big,))[1].done() == "echo 0"

    async def test_admission_rules_act_from_then_on(self, backends):
        backends.hold("echo")
        async with running(config(**ONE)) as (pipeline, _):
            pace(pipeline, 1.0)
            asked = [ask(pipeline) for _ in range(2)]
            renew(pipeline, **ONE, admission={"wait_budget_ms": 50})
            ticket, sink = ask(pipeline)
            assert ticket.ending is not None
            with pytest.raises(Overloaded):
                await sink.done()
            renew(pipeline, **ONE, admission={"wait_budget_ms": "off", "codel": False, "fair": False})
            asked.append(ask(pipeline, parameters=Parameters()))
            backends.let_go("echo")
            for _, sink in asked:
                await sink.done()


class TestRefused:
    async def test_what_cannot_be_built_changes_nothing_and_all_of_it_is_named(self, backends):
        async with running(config()) as (pipeline, _):
            before = pipeline.prepare(config())
            pipeline.apply(before)
            bad = config(
                workers=[ECHO, OPENAI | {"name": "far", "api_key": "env:HEADGATE_NOT_THERE"}],
                routes=[{"name": "echo", "worker": "far"}, {"name": "t", "worker": "echo", "template": "{{ nobody }}"}],
            )
            with pytest.raises(ConfigError) as told:
                pipeline.prepare(bad)
            assert [problem.path for problem in told.value.problems] == ["routes[1].template", "workers[1].api_key"]
            assert list(pipeline.ingress.routes) == ["echo"]
            assert "far" not in backends.built
            assert await ask(pipeline)[1].done() == "echo 0"

    async def test_what_was_prepared_for_nothing_is_closed(self, backends):
        async with running(config()) as (pipeline, _):
            await pipeline.discard(pipeline.prepare(config(workers=[ECHO, {"name": "new", "kind": "echo"}])))
            assert backends.built["new"][0].closed
            assert not backends.built["echo"][0].closed
            assert set(pipeline.flow.lanes) == {"echo"}

    async def test_what_stays_is_not_made_again(self, backends):
        routes = [
            {
                "name": "echo",
                "worker": "echo",
                "template": "{{ question }}",
                "filters": [{"kind": "stop", "sequences": ["x"]}],
            }
        ]
        async with running(config(routes=routes)) as (pipeline, _):
            first = pipeline.prepare(config(routes=routes))
            pipeline.apply(first)
            again = pipeline.prepare(config(routes=routes))
            assert again.routes["echo"].template is first.routes["echo"].template
            assert again.routes["echo"].filters is first.routes["echo"].filters
            assert again.started == []
            slower = pipeline.prepare(config(routes=[routes[0] | {"template_timeout_ms": 200}]))
            assert slower.routes["echo"].template is not first.routes["echo"].template


@pytest.mark.parametrize("seed", range(5))
async def test_no_request_fails_however_often_the_configuration_changes(seed):
    """Real workers, added, swapped, weighed and removed at random while requests of many sessions go through."""
    draw = random.Random(seed)
    async with running(random_config(draw)) as (pipeline, books):
        asked = []
        for number in range(300):
            if number % 5 == 0:
                pipeline.apply(pipeline.prepare(random_config(draw)))
            asked.append(ask(pipeline, f"r{number}", model="r0", session_id=draw.choice([None, "a", "b", "c", "d"])))
            await asyncio.sleep(draw.choice([0.0, 0.0, 0.001]))
        for _, sink in asked:
            assert await sink.done() == "hello there"
        assert {t.ending.outcome for t in books.ended if t.ending is not None} == {Outcome.COMPLETED}
        await until(lambda: len(pipeline.flow.lanes) == len(pipeline.workers) and not pipeline.flow._replaced)


def random_config(draw: random.Random) -> Config:
    names = draw.sample(["w0", "w1", "w2", "w3"], draw.randint(1, 4))
    workers = [
        {
            "name": name,
            "kind": "echo",
            "first_token_ms": draw.choice([1, 2, 5]),
            "concurrency": draw.choice(["adaptive", 20, 50]),
            "drain": name != names[0] and draw.random() < 0.2,
        }
        for name in names
    ]
    shares = [{"worker": n, "weight": 1.0 if n == names[0] else draw.choice([0.0, 0.5, 2.0])} for n in names]
    routes = [{"name": f"r{number}", "workers": shares} for number in range(draw.randint(1, 3))]
    stages = {"inference": {"capacity": draw.choice([600, 1024])}, "post": {"concurrency": draw.choice([300, 1024])}}
    return config(workers=workers, routes=routes, stages=stages, admission={"wait_budget_ms": "off", "codel": False})
