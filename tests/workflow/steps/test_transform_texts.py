import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform import check_transform
from pipeline.workflow.steps.transform_meter import Work
from tests.workflow.steps.transforming import run, worked
from workers.tokens import estimate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (" 5\n", 5),
        ('"x"', "x"),
        ("null", None),
        ('Here it is:\n```json\n{"a": 1}\n```\nDone.', {"a": 1}),
        ("```\nnot json\n```\n```\n[1]\n```", [1]),
        ('As [1] says, the answer is {"a": {"b": [1]}} I think.', {"a": {"b": [1]}}),
        ('So {this} is: {"a": 1}', {"a": 1}),
        ('{"a": 1} and {"b": [1, 2, 3]}', {"b": [1, 2, 3]}),
    ],
)
async def test_json_is_found_in_text(text, value):
    assert await run("json_parse", input=text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON in this text"),
        ("hello", "no JSON in this text"),
        ('{"a": 1,\n "b": }', "at line 2, column 7"),
        ('{"a": NaN}', "no JSON in this text"),
        ("[" * 100_000, "no JSON in this text"),
        ('{"a": "é\n', "no JSON in this text"),
        ("\ud800", "no JSON in this text"),
    ],
)
async def test_what_is_not_json_is_told_with_its_place(text, message):
    with pytest.raises(StepFailed) as caught:
        await run("json_parse", input=text)
    assert caught.value.kind == "invalid_input"
    assert message in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "message"), [("[" + "1," * 100_000 + "]", "line 1, column 200002"), ("[" * 200_000, "no JSON")]
)
async def test_large_texts_that_are_not_json_are_told_too(text, message):
    with pytest.raises(StepFailed, match="no JSON in this text") as caught:
        await run("json_parse", input=text)
    assert message in caught.value.message


async def test_large_json_is_parsed_like_small():
    value = [{"a": [1.5, None, True, "é\n"]}, {}, []] * 20_000
    assert await worked("json_parse", json.dumps(value)) == value


WORDS = st.text(alphabet="abc .,:;\n", max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    value=st.lists(JSON, min_size=1) | st.dictionaries(st.text(max_size=3), JSON, min_size=1), before=WORDS, after=WORDS
)
def test_json_in_the_middle_of_words_comes_back_as_it_was(value, before, after):
    assert asyncio.run(worked("json_parse", before + json.dumps(value) + after)) == value


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"pattern": r"\d+"}, ["1", "22"]),
        ({"pattern": r"\d+", "first": True}, "1"),
        ({"pattern": r"x+"}, []),
        ({"pattern": r"x+", "first": True}, None),
        ({"pattern": r"([a-z])(\d+)"}, [["a", "1"], ["b", "22"]]),
        ({"pattern": r"[a-z](\d+)"}, ["1", "22"]),
        (
            {"pattern": r"(?<l>[a-z])(?<n>\d+)(?<o>x)?"},
            [{"l": "a", "n": "1", "o": None}, {"l": "b", "n": "22", "o": None}],
        ),
        ({"pattern": r"(?<l>[a-z])(?<n>\d+)", "group": "n"}, ["1", "22"]),
        ({"pattern": r"([a-z])(\d+)", "group": 2}, ["1", "22"]),
        ({"pattern": r"([a-z])(\d+)", "group": 0}, ["a1", "b22"]),
        ({"pattern": r"([a-z])(\d+)", "replacement": r"\2\1"}, "1a 22b"),
        ({"pattern": r"x", "replacement": "y"}, "a1 b22"),
        ({"pattern": r"^|$", "replacement": "|"}, "|a1 b22|"),
    ],
)
async def test_regex(fields, value):
    assert await run("regex", input="a1 b22", **fields) == value


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab1 ", max_size=20), pattern=st.sampled_from(["a*", "b|", r"\b", "(a)(b)?", "1"]))
def test_replacements_are_those_of_the_package(text, pattern):
    import regex  # noqa: PLC0415

    assert asyncio.run(run("regex", input=text, pattern=pattern, replacement="<>")) == regex.sub(pattern, "<>", text)


@pytest.mark.slow
async def test_a_pattern_that_backtracks_for_ever_is_stopped(monkeypatch):
    monkeypatch.setattr(Work.__init__, "__defaults__", (0.5,))
    with pytest.raises(StepFailed) as caught:
        await run("regex", input="a" * 60 + "b", pattern=r"^(a|aa)+$")
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.rows[*].name", ["Ann", "Bob"]),
        ("$..name", ["Ann", "Bob"]),
        ("$.rows[?@.age > 2].name", ["Ann"]),
        ("$.rows[-1:].age", [2]),
        ("$.rows[?length(@.tags) == 0].name", ["Bob"]),
        ("$.rows[?match(@.name, 'A.*')].age", [3]),
        ("$.rows[?search(@.name, 'o')].age", [2]),
        ("$.rows[?search(@.name, '(')].age", []),
        ("$.nope", []),
        ("$", [{"rows": [{"name": "Ann", "age": 3, "tags": ["x"]}, {"name": "Bob", "age": 2, "tags": []}]}]),
    ],
)
async def test_json_path(path, value):
    data = {"rows": [{"name": "Ann", "age": 3, "tags": ["x"]}, {"name": "Bob", "age": 2, "tags": []}]}
    assert await run("json_path", input=data, path=path) == value
    assert await run("json_path", input=data, path=path, first=True) == (value[0] if value else None)


async def test_a_json_path_into_what_is_nested_too_deeply_is_told():
    deep = [1]
    for _ in range(150):
        deep = [deep]
    with pytest.raises(StepFailed) as caught:
        await worked("json_path", deep, path="$..x")
    assert caught.value.kind == "invalid_input"
    assert "recursion limit" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"input": "abcdefg", "size": 3}, ["abc", "def", "g"]),
        ({"input": "abcdefg", "size": 3, "overlap": 1}, ["abc", "cde", "efg"]),
        ({"input": "", "size": 3}, []),
        ({"input": "ab", "size": 3, "overlap": 2}, ["ab"]),
        ({"input": "a b  c d e", "size": 2, "unit": "words"}, ["a b", "c d", "e"]),
        ({"input": "a b c d e", "size": 3, "overlap": 1, "unit": "words"}, ["a b c", "c d e"]),
        ({"input": " \n ", "size": 3, "unit": "words"}, []),
        ({"input": "aaaa bbb cc", "size": 2, "unit": "tokens"}, ["aaaa bbb", "cc"]),
        ({"input": "a" * 20, "size": 2, "unit": "tokens"}, ["a" * 8, "a" * 8, "a" * 4]),
        ({"input": "日本語", "size": 2, "unit": "tokens"}, ["日本", "語"]),
    ],
)
async def test_chunk(fields, value):
    assert await run("chunk", **fields) == value


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="ab é\n日", max_size=80),
    size=st.integers(1, 12),
    overlap=st.integers(0, 11),
    unit=st.sampled_from(["characters", "words", "tokens"]),
)
def test_chunks_keep_their_size_and_lose_nothing(text, size, overlap, unit):
    overlap = min(overlap, size - 1)
    chunks = asyncio.run(run("chunk", input=text, size=size, overlap=overlap, unit=unit))
    measure = {"characters": len, "words": lambda one: len(one.split()), "tokens": estimate}[unit]
    assert all(0 < measure(one) <= size for one in chunks)
    if overlap == 0:
        assert "".join("".join(chunks).split()) == "".join(text.split())
    at = 0
    for one in chunks:  # each stands in the text, not before the one before it
        found = text.find(one, at)
        assert found >= 0
        at = found
    assert set(text.split()) <= {word for one in chunks for word in one.split()} or unit != "words"


@settings(max_examples=200, deadline=None)
@given(
    pattern=st.text(alphabet="ab()[]{}*+?|\\1^$.<>=!:?P", max_size=15),
    replacement=st.none() | st.text(alphabet="\\12g<a>x", max_size=6),
)
def test_any_pattern_is_checked_or_works(pattern, replacement):
    step = TransformStep(id="t", operation="regex", input="ab1 ab", pattern=pattern, replacement=replacement)
    faults = check_transform(step)
    try:
        value = asyncio.run(run("regex", input="ab1 ab", pattern=pattern, replacement=replacement))
    except StepFailed as failed:
        value = failed
    if isinstance(value, StepFailed):
        assert faults or value.kind == "timeout"
    else:
        assert not faults
        assert isinstance(value, list if replacement is None else str)
