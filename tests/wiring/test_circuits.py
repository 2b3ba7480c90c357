"""How the log tells of circuits."""

from structlog.testing import capture_logs

from pipeline.policy.breaker import BreakerRules
from pipeline.policy.pool import Pool, PoolRules, Result
from pipeline.wiring import Pipeline
from pipeline.wiring.circuits import CircuitLog
from tests.flows import config
from tests.stages.pooled import Pools, pooled, sections, worker

RULES = PoolRules(affinity=True, concurrency=None, slow_start=0.0, breaker=BreakerRules(failures=2, open_s=1.0))


class Calls:
    """On one replica, by a clock that stands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pool = Pool(["one:8000"], RULES)
        self.pool.on_circuit = CircuitLog("w", lambda: self.now)

    def ends(self, result: Result) -> None:
        attempt = self.pool.choose(None, self.now)
        assert attempt is not None
        self.pool.ended(attempt, self.now, result)


def test_it_opens_once_and_what_is_tried_in_vain_is_no_warning():
    calls = Calls()
    with capture_logs() as lines:
        for _ in range(2):
            calls.ends(Result.FAULT)
        for wait in (1.0, 2.0):
            calls.now += wait
            calls.ends(Result.FAULT)
        calls.now += 4.0
        calls.ends(Result.OK)
        for _ in range(2):
            calls.ends(Result.FAULT)
    told = [(line["event"], line["log_level"], line.get("failures"), line.get("wait_s")) for line in lines]
    assert told == [
        ("circuit_opened", "warning", 2, 1.0),
        ("circuit_still_open", "info", 3, 2.0),
        ("circuit_still_open", "info", 4, 4.0),
        ("circuit_closed", "info", None, None),
        ("circuit_opened", "warning", 6, 8.0),
    ]
    assert {(line["worker"], line["replica"]) for line in lines} == {("w", "one:8000")}


async def test_a_reload_does_not_forget_that_it_is_open(monkeypatch):
    Pools(monkeypatch)
    async with pooled(worker("a", 1, breaker_failures=1)) as (pipeline, _):
        pool = pipeline.flow.inference.backends["a"].pool
        (replica,) = pool.replicas

        def fails(now: float) -> None:
            attempt = pool.choose(None, now)
            assert attempt is not None
            pool.ended(attempt, now, Result.FAULT)

        with capture_logs() as lines:
            fails(0.0)
            reload(pipeline)
            fails(replica.breaker.wait(0.0))
        assert [line["event"] for line in lines] == ["circuit_opened", "circuit_still_open"]


def reload(pipeline: Pipeline) -> None:
    pipeline.apply(pipeline.prepare(config(**sections(worker("a", 1, breaker_failures=1)))))
