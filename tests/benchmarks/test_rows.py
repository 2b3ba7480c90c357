from benchmarks.load.answer import Answer, End
from benchmarks.pools import circuit
from benchmarks.pools.clients import Done, refusals
from benchmarks.pools.failing import fails
from benchmarks.rows import Row


def test_a_figure_meets_its_target():
    assert Row("x", 95.0, "%", least=95.0).met
    assert not Row("x", 94.9, "%", least=95.0).met
    assert Row("x", 1.25, most=1.25).met
    assert not Row("x", 1.26, most=1.25).met
    assert not Row("x", None, most=1.25).met
    assert Row("x", 5.0, least=5.0, most=5.0).target == "5"
    assert Row("x", 5.0, "%", least=5.0).target == "≥ 5 %"


def test_which_calls_fail():
    assert [number for number in range(1, 40) if fails("8-26")(number)] == list(range(8, 27))
    assert [number for number in range(1, 6) if fails("odd")(number)] == [1, 3, 5]
    assert not any(map(fails("none"), range(50)))


def _done(number: int, reason: str | None) -> Done:
    answer = Answer(end=End.WHOLE) if reason is None else Answer(end=End.REFUSED, status=503, reason=reason)
    return Done(number, "s", answer)


def test_why_requests_failed():
    done = [_done(0, None), _done(1, "circuit_open"), _done(2, "x"), _done(3, "circuit_open")]
    assert refusals(done) == "2 circuit_open, 1 x"


def _circuit(calls: list[tuple[float, bool]], first_refused: int) -> list[bool]:
    done = [_done(at, "circuit_open" if at == first_refused else None) for at in range(50)]
    return [row.met for row in circuit._rows(done, calls)]


def test_a_circuit_that_opens_as_it_should():
    well = [(at / 100, False) for at in range(7)]
    failed = [(1 + at / 100, True) for at in range(5)]
    probes = [(1.2, True), (1.4, True), (1.6, False), (1.61, False)]
    assert _circuit([*well, *failed, *probes], 12) == [True, True, True]
    assert _circuit([*well, *failed, *probes], 13) == [False, True, True]
    assert _circuit([*well, *failed, (1.05, True), *probes], 12) == [True, False, True]
