import pytest

from benchmarks.load.answer import End
from benchmarks.soak.settings import SOMETIMES
from benchmarks.soak.verdict import BACKEND, KNOWLEDGE, LOST, Seen, Trouble, log_problems, told, unexpected


def seen(status: int, code: str, at: float = 10.0, stream: str = "steady", end: End = End.REFUSED) -> Seen:
    return Seen(at, stream, end, status, code, "detail")


KILLED = Trouble(LOST, 9.0, 9.5)


class TestUnexpected:
    @pytest.mark.parametrize(
        "each", [seen(503, "overloaded"), seen(504, "deadline_exceeded"), seen(200, "deadline_exceeded")]
    )
    def test_what_overload_and_deadlines_bring_is_none(self, each):
        assert list(unexpected([each], [])) == []

    @pytest.mark.parametrize(
        "each",
        [
            seen(500, "internal_error"),
            seen(400, "invalid_value"),
            seen(401, "invalid_api_key"),
            seen(0, "unreachable", end=End.UNREACHABLE),
            seen(200, "nonsense", end=End.NONSENSE),
            seen(503, "cancelled"),
        ],
    )
    def test_what_nothing_explains_is(self, each):
        everything = [KILLED, Trouble(BACKEND, 9, 9.5), Trouble(KNOWLEDGE, 9, 9.5)]
        assert list(unexpected([each], everything)) == [each]

    def test_a_closed_connection_is_excused_by_a_kill_at_that_time_only(self):
        broken = seen(0, "broken", end=End.BROKEN)
        assert list(unexpected([broken], [KILLED])) == []
        assert list(unexpected([broken], [])) == [broken]
        assert list(unexpected([broken], [Trouble(LOST, 11.0, 11.5)])) == [broken]
        assert list(unexpected([broken], [Trouble(LOST, 1.0, 2.0)])) == [broken]
        assert list(unexpected([broken], [Trouble(LOST, 1.0, None)])) == []

    def test_each_trouble_excuses_its_own(self):
        failed = seen(502, "backend_error")
        assert list(unexpected([failed], [KILLED])) == [failed]
        assert list(unexpected([failed], [Trouble(BACKEND, 9.0, 9.5)])) == []
        lost = seen(503, "shard_lost")
        assert list(unexpected([lost], [KILLED])) == []
        assert list(unexpected([lost], [])) == [lost]

    def test_limits_and_unknown_models_are_expected_where_they_belong(self):
        assert list(unexpected([seen(429, "rate_limit_exceeded", stream="limited")], [])) == []
        assert list(unexpected([seen(429, "rate_limit_exceeded")], [])) != []
        assert list(unexpected([seen(404, "model_not_found", stream=SOMETIMES)], [])) == []
        assert list(unexpected([seen(404, "model_not_found", stream="docs")], [])) != []

    def test_they_are_told_together_by_kind(self):
        found = told([seen(500, "internal_error"), seen(500, "internal_error"), seen(0, "broken", end=End.BROKEN)])
        assert found[0].startswith("2 answers 500 internal_error to clients of 'steady' that nothing explains")
        assert len(found) == 2


class TestLog:
    def test_what_the_soak_does_may_be_there_as_often_as_it_did_it(self):
        events = {"error process_died": 3, "error reload_refused": 1, "info process_ready": 10, "request": 900}
        assert list(log_problems(events, [], {"kill": 2, "knowledge": 1, "broken": 1})) == []
        (problem,) = log_problems(events, [], {"kill": 2, "broken": 1})
        assert problem == "the log has 3 lines of 'error process_died', 2 of them ours"

    @pytest.mark.parametrize("name", ["error stage_failed", "critical process_failed", "error (library)", "(no JSON)"])
    def test_anything_else_is_told_with_an_example(self, name):
        lines = ['{"event":"stage_failed","process_failed":1,"library":1}', "no JSON at all"]
        (problem,) = log_problems({name: 2, "request": 900}, lines, {"kill": 9})
        assert problem.startswith(f"the log has 2 lines of {name!r}")
        assert "as " in problem
