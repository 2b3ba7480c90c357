import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform import check_transform
from tests.workflow.steps.transforming import prepared, run


@pytest.mark.parametrize(
    ("operation", "fields", "value"),
    [
        ("concat", {"input": ["a", 1, None, True, 1.5]}, "a1true1.5"),
        ("concat", {"input": ["a", "b"], "separator": ", "}, "a, b"),
        ("concat", {"input": [[1], None, [2, [3]]]}, [1, 2, [3]]),
        ("concat", {"input": []}, ""),
        ("concat", {"input": "{{ rows | map(attribute='tags') | list }}"}, ["x", "y"]),
        ("merge", {"input": [{"a": 1, "b": 1}, None, {"b": 2}]}, {"a": 1, "b": 2}),
        ("merge", {"input": [[1], [2]]}, [1, 2]),
        ("merge", {"input": []}, {}),
        ("filter", {"input": [3, 1, 2], "where": "item > 1 and index < 2"}, [3]),
        ("filter", {"input": "{{ rows }}", "where": "{{ item.tags }}"},
         [{"name": "Ann", "age": 3, "tags": ["x", "y"]}]),
        ("map", {"input": "{{ rows }}", "value": {"n": "{{ item.name }}", "i": "{{ index }}"}},
         [{"n": "Ann", "i": 0}, {"n": "Bob", "i": 1}]),
        ("map", {"input": [1, 2], "value": "x"}, ["x", "x"]),
        ("split", {"input": " a  b\nc "}, ["a", "b", "c"]),
        ("split", {"input": "a,b,,c,", "separator": ","}, ["a", "b", "", "c", ""]),
        ("split", {"input": "", "separator": ","}, [""]),
        ("join", {"input": ["a", 2, None, "b"]}, "a\n2\nb"),
        ("join", {"input": "{{ inputs.tags }}", "separator": "+"}, "a+b"),
        ("pick", {"input": "{{ rows }}", "fields": ["name"]}, [{"name": "Ann"}, {"name": "Bob"}]),
        ("pick", {"input": "{{ inputs }}", "fields": ["deep.list.1.x", "n"]}, {"x": 2, "n": 3}),
        ("pick", {"input": "{{ inputs }}", "fields": {"first": "tags.0"}}, {"first": "a"}),
        ("template", {"template": "{{ topic }}!"}, "flat cats!"),
        ("template", {"template": {"a": "{{ inputs.n }}"}}, {"a": 3}),
    ],
)  # fmt: skip
async def test_operations(operation, fields, value):
    assert await run(operation, **fields) == value


@pytest.mark.parametrize(
    ("operation", "fields", "message"),
    [
        ("concat", {"input": "text"}, 'input: expected a list, got "text"'),
        ("concat", {"input": ["a", {}]}, "input[1]: expected a text or a number, got an object of 0"),
        ("concat", {"input": [["a"], "b"]}, "input[1]: expected a list"),
        ("merge", {"input": [{}, None, "x"]}, 'input[2]: expected an object, got "x"'),
        ("merge", {"input": {}}, "input: expected a list, got an object of 0"),
        ("filter", {"input": "x", "where": "true"}, "input: expected a list"),
        ("map", {"input": None, "value": 1}, "input: expected a list, got null"),
        ("split", {"input": 5}, "input: expected a text, got 5"),
        ("join", {"input": [[]]}, "input[0]: expected a text or a number, got a list of 0"),
        ("pick", {"input": [1], "fields": ["a"]}, "input[0]: expected an object, got 1"),
        (
            "pick",
            {"input": "{{ inputs }}", "fields": ["nope.x"]},
            "`input.nope` is not there: `input` has: topic, tags",
        ),
        (
            "pick",
            {"input": [{"a": [1]}], "fields": ["a.5"]},
            "`input[0].a[5]` is not there: `input[0].a` is a list of 1",
        ),
        ("json_parse", {"input": []}, "input: expected a text, got a list of 0"),
        ("regex", {"input": None, "pattern": "a"}, "input: expected a text, got null"),
        ("chunk", {"input": 1, "size": 1}, "input: expected a text, got 1"),
    ],
)
async def test_wrong_types_name_the_field_and_what_was_found(operation, fields, message):
    with pytest.raises(StepFailed) as caught:
        await run(operation, **fields)
    assert caught.value.kind == "invalid_input"
    assert message in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("operation", "fields", "faults"),
    [
        ("concat", {}, [("input", "concat needs it")]),
        ("filter", {"input": []}, [("where", "filter needs it")]),
        ("template", {"input": []}, [("input", "template does not take it"), ("template", "template needs it")]),
        ("merge", {"input": None}, []),
        ("merge", {"input": [], "separator": ""}, [("separator", "merge does not take it")]),
        ("split", {"input": "", "separator": ""}, [("separator", "it is empty: leave it out to split between words")]),
        ("chunk", {"input": "", "size": 5, "overlap": 5}, [("overlap", "it must be less than size (5)")]),
        ("pick", {"input": {}, "fields": []}, [("fields", "it names none")]),
        ("pick", {"input": {}, "fields": ["a..b"]}, [("fields", "'a..b' is no dotted path")]),
        ("regex", {"input": "", "pattern": "(a)", "group": 2}, [("group", "the pattern has no group 2")]),
        ("regex", {"input": "", "pattern": "(?<n>a)", "group": "m"}, [("group", "the pattern has no group 'm'")]),
        ("regex", {"input": "", "pattern": "a", "replacement": "b", "first": True},
         [("first", "it is of no use with a replacement")]),
    ],
)  # fmt: skip
def test_what_is_declared_wrongly_is_told(operation, fields, faults):
    assert check_transform(TransformStep(id="t", operation=operation, **fields)) == faults


@pytest.mark.parametrize(
    ("operation", "fields", "message"),
    [
        ("pick", {"fields": ["a.x", "b.x"]}, "two of them would be called 'x'"),
        ("json_path", {"path": "$.a["}, "not a JSONPath (RFC 9535)"),
        ("json_path", {"path": "a.b"}, "not a JSONPath (RFC 9535)"),
        ("json_path", {"path": "$" + ".a" * 1000}, "more than 1000 characters"),
        ("json_path", {"path": "$[?nope(@.a)]"}, "not a JSONPath (RFC 9535)"),
        ("regex", {"pattern": "(a"}, "not a regular expression"),
        ("regex", {"pattern": "a" * 2001}, "more than 2000 characters"),
        ("regex", {"pattern": "a", "replacement": "\\2"}, "not one for this pattern"),
    ],
)
def test_constants_are_checked_when_they_are_declared(operation, fields, message):
    (fault,) = check_transform(TransformStep(id="t", operation=operation, input="x", **fields))
    assert message in fault[1]


async def test_what_is_declared_wrongly_fails_when_it_is_run_all_the_same():
    with pytest.raises(StepFailed, match="where: filter needs it"):
        await run("filter", input=[])


async def blocked_while(work) -> tuple[object, float]:
    """What it came to, and the longest that the event loop was kept from its turn meanwhile."""
    longest = 0.0
    done = asyncio.Event()

    async def watch():
        nonlocal longest
        while not done.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        result = await work
    except StepFailed as failed:
        result = failed
    done.set()
    await watcher
    return result, longest


TEN_MB = "word, " * 1_700_000
LARGE = [
    ("concat", {"input": [TEN_MB, TEN_MB]}),
    ("concat", {"input": [list(range(400_000))] * 4}),
    ("join", {"input": ["x"] * 500_000}),
    ("split", {"input": TEN_MB * 10, "separator": ","}),
    ("split", {"input": TEN_MB[:3_000_000], "separator": ","}),
    ("split", {"input": TEN_MB}),
    ("pick", {"input": [{"a": {"b": 1}}] * 100_000, "fields": ["a.b"]}),
    ("json_parse", {"input": "[" + "[1]," * 600_000 + "1]"}),
    ("json_parse", {"input": "[" + "[1]," * 6_000_000 + "1]"}),
    ("json_parse", {"input": "see {" * 50_000}),
    ("json_path", {"input": [[{"a": 1}] * 300] * 300, "path": "$..a"}),
    ("json_path", {"input": [[[1] * 30] * 30] * 30, "path": "$..*..*..*..*"}),
    ("json_path", {"input": ["a" * 40 + "b"] * 100, "path": "$[?match(@, '(a|aa)+$')]"}),
    ("regex", {"input": TEN_MB[:2_000_000], "pattern": "w(or)d"}),
    ("regex", {"input": TEN_MB[:500_000], "pattern": "(?=(.*))"}),
    ("regex", {"input": TEN_MB[:500_000], "pattern": "(?=(.*))", "replacement": "\\1"}),
    ("chunk", {"input": TEN_MB[:3_000_000], "size": 500, "overlap": 50, "unit": "tokens"}),
    ("chunk", {"input": TEN_MB[:3_000_000], "size": 100, "overlap": 99, "unit": "words"}),
    ("chunk", {"input": TEN_MB, "size": 1_000_000, "overlap": 999_999}),
    ("chunk", {"input": TEN_MB * 10, "size": 10}),
    ("map", {"input": list(range(20_000)), "value": "{{ item }}"}),
    ("filter", {"input": list(range(10_000)), "where": "item % 2 == 0"}),
]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("operation", "fields"), LARGE, ids=[f"{n}-{one[0]}" for n, one in enumerate(LARGE)])
async def test_large_inputs_finish_or_fail_and_let_others_run(operation, fields):
    began = time.monotonic()
    result, longest = await blocked_while(prepared(operation, **fields)())
    assert time.monotonic() - began < 30
    assert longest < 0.5  # a few slices of a busy machine; unsliced, most of these take a second or more
    if isinstance(result, StepFailed):
        assert result.kind in {"too_large", "timeout", "invalid_input"}


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab, \n", max_size=40), separator=st.sampled_from([",", ", ", "ab", "\n"]))
def test_split_does_as_python_does_and_join_undoes_it(text, separator):
    parts = asyncio.run(run("split", input=text, separator=separator))
    assert parts == text.split(separator)
    assert asyncio.run(run("join", input=parts, separator=separator)) == text
    assert asyncio.run(run("split", input=text)) == text.split()
