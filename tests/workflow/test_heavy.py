"""Values that are heavy for their size do not keep the event loop: they are refused before they are made."""

import math
import struct
import time

import pytest

from pipeline.adapters.journals import codec
from pipeline.workflow import values
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result
from pipeline.workflow.template_values import forget, weigh, weigh_sum
from pipeline.workflow.templates import Failed, Limits, compile_value
from pipeline.workflow.values import MAX_CONTAINERS, MAX_PARTS, too_many
from tests.workflow.names import Variables

LIMITS = Limits(timeout=30.0)


@pytest.mark.parametrize(
    "value",
    [
        [0] * (MAX_PARTS + 2),
        [[]] * (MAX_CONTAINERS + 1),
        {"a": [{}] * (MAX_CONTAINERS + 1)},
        {str(n): 0 for n in range(MAX_PARTS // 2 + 1)},
    ],
    ids=["numbers", "lists", "objects", "names"],
)
def test_values_of_too_many_parts(value):
    with pytest.raises(StepFailed) as caught:
        values.checked(Result(value), 1 << 24)
    assert (caught.value.kind, "values, or than" in caught.value.message) == ("too_large", True)


@pytest.mark.parametrize(
    "value",
    ["," * 5_000_000, [",[{" * 1_000_000, '",\\"[' * 400_000, "\\" * 9], {'a":[' * 300_000: ":" * 3_000_000}],
    ids=["text", "list", "object"],
)
def test_what_stands_in_texts_is_no_part(value):
    assert values.checked(Result(value), 1 << 24).value == value


def test_what_is_just_small_enough():
    value = [[0] * 9] * (MAX_CONTAINERS - 1)
    assert values.checked(Result(value), 1 << 24).value == value


def test_more_texts_than_there_could_be_are_refused_without_counting_them():
    assert too_many(b"[" + b'"",' * (MAX_PARTS + 2) + b'""]')


def test_large_texts_together_are_refused_before_they_are_copied():
    text = "x" * 15_000_000
    value = {f"s{n}": {"status": 200, "body": text} for n in range(8)}
    since = time.thread_time()
    with pytest.raises(StepFailed, match="too large: more than 16777216 bytes"):
        values.checked(Result(value), 1 << 24)
    assert time.thread_time() - since < 0.02


@pytest.mark.alone
def test_random_numbers_are_written_as_fast_as_others():
    """Some of them look as if there were an infinity among them."""
    (lookalike,) = struct.unpack(">d", b"\x3f\xcb\x7f\xf8\0\0\0\0")
    numbers = [lookalike] * 1_000_000
    data = codec.encode(numbers)
    assert any(suspect in data for suspect in codec._SUSPECTS)
    since = time.thread_time()
    codec.encode(numbers)
    assert time.thread_time() - since < 0.2
    for wrong in (math.inf, math.nan):
        with pytest.raises(ValueError, match="which JSON does not have"):
            codec.encode([*numbers, wrong])
        with pytest.raises(ValueError, match="which JSON does not have"):
            codec.encode([["a"], *numbers, wrong])


# Templates.


def filled(text: str, limits: Limits = LIMITS, **variables: object) -> object:
    return compile_value(text).render(Variables(**variables), None, limits)


@pytest.mark.parametrize("filter_", ["sort", "sort(reverse=true)", "groupby(0)"])
def test_no_more_is_sorted_than_takes_a_moment(filter_):
    many = [[n] for n in range(30_001)] if filter_ == "groupby(0)" else list(range(30_001))
    with pytest.raises(Failed, match="takes at most 30000 items"):
        filled(f"{{{{ x|{filter_}|first }}}}", x=many)
    assert filled("{{ x|sort|first }}", x=list(range(30_000, 0, -1))) == 1


def test_each_attribute_that_is_sorted_by_counts():
    rows = [{"a": n % 3, "b": -n} for n in range(15_001)]
    assert filled("{{ (x|sort(attribute='a'))[0].b }}", x=rows) == 0
    with pytest.raises(Failed, match="takes at most 15000 items"):
        filled("{{ (x|sort(attribute='a,b'))[0].b }}", x=rows)


def test_lists_that_begin_alike_are_sorted_while_they_are_short():
    long = [[0] * 1000 + [n] for n in range(500)]
    with pytest.raises(Failed, match="sort takes lists and objects of at most 500000 characters"):
        filled("{{ x|sort|first }}", x=long)
    with pytest.raises(Failed, match="sort takes lists and objects"):
        filled("{{ x|sort(attribute='a')|first }}", x=[{"a": one} for one in long])
    rows = [{"n": -n, "text": "x" * 1000} for n in range(1000)]
    assert filled("{{ (x|sort(attribute='n'))[0].n }}", x=rows) == -999
    assert filled("{{ (x|dictsort(by='value'))[0] }}", x={"a": 2, "b": 1}) == ["b", 1]


@pytest.mark.parametrize("text", ["{{ x|title }}", "{{ x|wordcount }}", "{{ x|fromjson }}", "{{ x.split(',') }}"])
def test_no_longer_text_is_taken_apart(text):
    with pytest.raises(Failed, match="takes at most 500000 characters"):
        filled(text, x="1," * 250_001)


@pytest.mark.alone
@pytest.mark.parametrize("filter_", ["sum", "max", "min", "unique|list", "select('gt', 9e9)|list", "map('abs')|list"])
def test_what_goes_through_a_list_looks_at_the_clock(filter_):
    numbers = list(range(1_000_000))
    since = time.thread_time()
    with pytest.raises(Failed, match="template_timeout_ms"):
        filled(f"{{{{ x|{filter_} }}}}", Limits(timeout=0.01), x=numbers)
    assert time.thread_time() - since < 0.1


# Lists that grow.


def counted(looks: list[int]):
    def tick() -> None:
        looks.append(1)

    return tick


def test_a_list_that_grows_is_weighed_once():
    looks: list[int] = []
    so_far, tick = [0] * 50_000, counted(looks)
    weigh(so_far, 1 << 20, tick)
    once = len(looks)
    assert once > 10
    for item in range(5):
        following = [*so_far, item]
        weigh_sum(so_far, [item], following, 1 << 20, tick)
        assert weigh(following, 1 << 20, tick)
        so_far = following
    assert len(looks) == 2 * once
    forget()
    weigh(so_far, 1 << 20, tick)
    assert len(looks) == 3 * once
    forget()


def test_its_weight_counts_all_the_same():
    part = ["x" * 100] * 100
    whole = part + part
    with pytest.raises(Exception, match="larger than 15000 characters"):
        weigh_sum(part, part, whole, 15_000, lambda: None)
    weigh_sum(part, part, whole, 30_000, lambda: None)
    with pytest.raises(Exception, match="larger than 15000 characters"):
        weigh(whole, 15_000, lambda: None)
    odd = [*whole, (1, 2)]
    weigh_sum(whole, [(1, 2)], odd, 30_000, lambda: None)
    assert not weigh(odd, 30_000, lambda: None)
    forget()
