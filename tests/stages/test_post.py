from functools import partial

from pipeline.stages.filters import Stop
from pipeline.stages.post import FilterChain
from workers.base import Delta, DeltaBatch


def chain(choices: int) -> FilterChain:
    return FilterChain([partial(Stop, ["STOP"])], choices)


def both(first: str, second: str) -> DeltaBatch:
    """A chunk with two choices, as the `openai` worker reads it."""
    return DeltaBatch((Delta(first, 0, raw=b"{}", extra=True), Delta(second, 1, extra=True)))


def test_a_choice_that_has_ended_takes_no_other_s_text_with_it():
    filters = chain(2)
    answer = filters.run([both("aSTOP", "A"), both("b", "B"), both("c", "C")])
    assert "".join(delta.text for delta in answer.deltas if delta.index == 0) == "a"
    assert "".join(delta.text for delta in answer.deltas if delta.index == 1) == "ABC"
    # Each chunk still has the delta that carries it, so that the other choice's text finds its place.
    assert [delta.index for delta in answer.deltas if delta.raw] == [0, 0, 0]
    assert not filters.ended


def test_the_answer_has_ended_when_all_choices_have():
    filters = chain(2)
    filters.run([both("STOP", "x")])
    assert not filters.ended
    filters.run([both("", "STOP")])
    assert filters.ended


def test_of_one_choice_nothing_passes_after_its_end():
    filters = chain(1)
    answer = filters.run([DeltaBatch((Delta("aSTOP"), Delta("b", raw=b"{}", extra=True)))])
    assert [(delta.text, delta.finish_reason) for delta in answer.deltas] == [("a", "stop")]
    assert filters.ended


def test_what_no_filter_touches_is_passed_as_it_is():
    batch = DeltaBatch((Delta("a", raw=b"{1}"), Delta("b", raw=b"{2}", finish_reason="stop")))
    answer = chain(1).run([batch])
    assert not answer.changed
    assert answer.deltas == batch.deltas
