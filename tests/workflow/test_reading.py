"""Trees become definitions, or all that is wrong with them, each with its place and what was probably meant."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pipeline.workflow.definition import CustomStep, Definition
from pipeline.workflow.source import Source, read, read_tree
from pipeline.workflow.writing import to_yaml

ROOT = Path(__file__).parents[2]

EVERYTHING = """\
name: everything
version: "1.10"
description: One step of each type, with every key of it.
inputs:
  text: {type: string}
  many: {type: array, default: []}
outputs: {answer: "{{ ask.text }}", plain: 3}
timeout_seconds: 60
on_failure: continue
metadata: {owner: me}
steps:
  - id: ask
    type: llm
    provider: echo
    model: small
    messages: [{role: system, content: a}, {role: user, content: "{{ inputs.text }}"}]
    temperature: 0.5
    max_tokens: 5
    top_p: 1
    seed: 7
    stop: [END]
    output_schema: {type: object}
    output_attempts: 2
    depends_on: [wait]
    condition: true
    timeout_seconds: 1.5
    retry: {max_attempts: 2, backoff: linear, initial_delay_ms: 1, max_delay_ms: 2, jitter: false}
    on_failure: fallback
    fallback: null
    output: [answer, model]
    metadata: {a: 1}
  - {id: vector, type: embed, input: a, route: echo}
  - {id: search, type: vector_search, collection: docs, query: a, limit: 3, min_score: 0.1, output: found}
  - {id: store, type: vector_upsert, collection: docs, documents: [a]}
  - {id: cut, type: transform, operation: chunk, input: a, size: 5, overlap: 1, unit: words}
  - {id: pick, type: transform, operation: pick, input: {a: 1}, fields: {b: a}}
  - id: choose
    type: branch
    cases:
      - when: found | length > 1
        then: [pick, {id: one, type: wait, seconds: 1}]
      - when: true
        then: {id: two, type: branch, cases: [{when: false, then: [{id: three, type: wait, seconds: 1}]}]}
    default: cut
  - id: both
    type: parallel
    max_concurrency: 2
    steps:
      - {id: left, type: wait, seconds: 0}
      - id: right
        type: branch
        cases: [{when: "true", then: {id: inner, type: wait, event: go}}]
  - id: each
    type: map
    items: "{{ inputs.many }}"
    as: thing
    result: null
    max_concurrency: 3
    steps: [{id: log, type: action, action: log, message: "{{ thing }}", level: debug}]
  - {id: total, type: reduce, items: [1, 2], initial: 0, as: one, accumulator: sum, value: "{{ sum + one }}"}
  - id: again
    type: loop
    until: false
    max_iterations: 2
    variables: {draft: a}
    on_limit: fail
    steps: [{id: call, type: action, action: http_request, url: u, method: PUT, headers: {a: b}, body: 1,
             expect_status: [200]}]
  - {id: file, type: action, action: file_write, path: a, content: b, append: true}
  - {id: other, type: workflow, workflow: x@1, inputs: {a: 1}}
  - {id: wait, type: wait, until: 2026-01-01T00:00:00Z}
"""


def faults(source: Source) -> list[tuple[str, str, str]]:
    assert all(fault.line >= 1 and fault.column >= 1 for fault in source.faults)
    return [(fault.where, fault.message, fault.hint) for fault in source.faults]


def steps(*written: str) -> Source:
    return read("name: x\nsteps:\n" + "".join(f"  - {{{one}}}\n" for one in written), kinds=())


def test_every_key_of_every_type_is_read():
    source = read(EVERYTHING)
    assert source.faults == []
    definition = source.definition
    assert definition is not None
    assert [step.id for step in definition.steps] == (
        "ask vector search store cut pick choose one two three both each total again file other wait".split()
    )
    ask = definition.steps[0]
    assert (definition.version, ask.output, ask.fallback, ask.retry.jitter) == (
        "1.10",
        ["answer", "model"],
        None,
        False,
    )
    assert definition.inputs["required"] == ["text"]
    assert [case.then for case in definition.steps[6].cases] == [["pick", "one"], ["two"]]
    assert definition.steps[6].default == ["cut"]
    assert definition.steps[8].cases[0].then == ["three"]
    assert [step.id for step in definition.steps[10].steps] == ["left", "right", "inner"]
    assert definition.steps[11].as_ == "thing"


def test_a_definition_survives_json_and_yaml():
    definition = read(EVERYTHING).definition
    assert definition is not None
    text = msgspec.json.encode(definition)
    for again in (read(text, "json"), read(to_yaml(definition)), read_tree(json.loads(text))):
        assert again.faults == []
        assert again.definition == definition


def test_steps_that_were_moved_keep_their_places():
    source = read(EVERYTHING)
    lines = EVERYTHING.split("\n")

    def at(*path):
        line, column = source.place(path)
        return lines[line - 1][column - 1 :]

    assert at("steps", "one").startswith("{id: one")
    assert at("steps", 7, "seconds").startswith("1}]")
    assert at("steps", "three", "id").startswith("three,")
    assert at("steps", 10, "steps", 2, "event").startswith("go}")
    assert at("steps", "both", "steps", "inner", "event").startswith("go}")
    assert at("steps", "wait").startswith("{id: wait")
    assert at("steps", "again", "variables", "draft").startswith("a}")
    assert at("inputs", "properties", "text", "type").startswith("string")
    assert at("steps", "wait", "no", "such").startswith("{id: wait")
    assert source.where(("steps", 10, "steps", 2, "event")) == "steps.both.steps.inner.event"


# A step, where its fault is, parts of the message, the hint.
WRONG_STEPS = [
    (
        "id: a, type: lmm",
        "steps.a.type",
        'found "lmm", expected a type of step: one of llm, embed',
        "did you mean llm?",
    ),
    ("id: a, typ: llm", "steps.a.type", "type is missing: one of llm, embed", 'did you mean type where it says "typ"?'),
    ("id: a, type: 3", "steps.a.type", "found 3, expected a type of step", ""),
    ("type: wait", "steps[0].id", "id is missing: an identifier", ""),
    ("id: 1a, type: wait", "steps[0].id", 'found "1a", expected an identifier', ""),
    ("id: 7, type: wait", "steps[0].id", "found 7, expected an identifier", ""),
    ("id: a, type: llm, promt: b", "steps.a.promt", 'an llm step has no key "promt"', "did you mean prompt?"),
    ("id: a, type: wait, url: b", "steps.a.url", 'a wait step has no key "url": that is a key of action steps', ""),
    ("id: a, type: wait, zzzzzz: b", "steps.a.zzzzzz", 'a wait step has no key "zzzzzz": it has', ""),
    ("id: a, type: wait, timeout_seconds: 0", "steps.a.timeout_seconds", "found 0, expected a number above 0", ""),
    ("id: a, type: wait, timeout_seconds: soon", "steps.a.timeout_seconds", 'found "soon", expected a number', ""),
    ("id: a, type: wait, timeout_seconds: '5'", "steps.a.timeout_seconds", 'found "5"', "did you mean 5?"),
    ("id: a, type: wait, retry: 3", "steps.a.retry", "found 3, expected a mapping", ""),
    (
        "id: a, type: wait, retry: {max_attempts: 0}",
        "steps.a.retry.max_attempts",
        "found 0, expected a whole number from 1 to 100",
        "",
    ),
    (
        "id: a, type: wait, retry: {backof: linear}",
        "steps.a.retry.backof",
        'a retry has no key "backof"',
        "did you mean backoff?",
    ),
    (
        "id: a, type: wait, retry: {backoff: exponental}",
        "steps.a.retry.backoff",
        'expected one of "constant"',
        'did you mean "exponential"?',
    ),
    ("id: a, type: wait, depends_on: b", "steps.a.depends_on", 'found "b", expected a list of identifiers', ""),
    ("id: a, type: wait, depends_on: [1]", "steps.a.depends_on[0]", "found 1, expected an identifier", ""),
    ("id: a, type: wait, output: a b", "steps.a.output", 'found "a b", expected an identifier', ""),
    ("id: a, type: wait, output: [a, 'b c']", "steps.a.output[1]", 'found "b c", expected an identifier', ""),
    (
        "id: a, type: wait, output: {a: b}",
        "steps.a.output",
        "found a mapping, expected a text or a list of identifiers",
        "",
    ),
    ("id: a, type: wait, metadata: [a]", "steps.a.metadata", "found a list of 1, expected a mapping", ""),
    ("id: a, type: wait, description: 3", "steps.a.description", "found 3, expected a text", 'did you mean "3"?'),
    (
        "id: a, type: wait, condition: 1",
        "steps.a.condition",
        "found 1, expected a text or true or false",
        'did you mean "1"?',
    ),
    ("id: a, type: transform", "steps.a.operation", "operation is missing: one of", ""),
    ("id: a, type: transform, operation: fliter", "steps.a.operation", 'found "fliter"', 'did you mean "filter"?'),
    (
        "id: a, type: transform, operation: pick, fields: 3",
        "steps.a.fields",
        "found 3, expected a list of texts or a mapping",
        "",
    ),
    ("id: a, type: llm, messages: [{role: robot, content: b}]", "steps.a.messages[0].role", 'found "robot"', ""),
    ("id: a, type: llm, messages: [a]", "steps.a.messages[0]", 'found "a", expected a mapping', ""),
    (
        "id: a, type: branch, cases: []",
        "steps.a.cases",
        "found a list of 0, expected a list of mappings, at least 1",
        "",
    ),
    ("id: a, type: branch, cases: [{then: a}]", "steps.a.cases[0].when", "when is missing", ""),
    (
        "id: a, type: branch, cases: [{when: a, then: 3}]",
        "steps.a.cases[0].then",
        "found 3, expected the id of a step",
        "",
    ),
    (
        "id: a, type: branch, cases: [{when: a, then: [b, [c]]}]",
        "steps.a.cases[0].then[1]",
        "found a list of 1, expected the id",
        "",
    ),
    (
        "id: a, type: branch, cases: [{when: a, then: [{id: b, type: wait, x: 1}]}]",
        "steps.b.x",
        "a wait step has no key",
        "",
    ),
    (
        "id: a, type: parallel, steps: []",
        "steps.a.steps",
        "found a list of 0, expected a list of steps, at least 1",
        "",
    ),
    ("id: a, type: parallel, steps: [{id: b, type: wait, x: 1}]", "steps.a.steps.b.x", "a wait step has no key", ""),
    ("id: a, type: map, items: [], steps: 3", "steps.a.steps", "found 3, expected a list of steps", ""),
    (
        "id: a, type: loop, steps: [{id: b, type: wait}], variables: {1a: b}",
        "steps.a.variables.1a",
        'the key "1a": expected an identifier',
        "",
    ),
    (
        "id: a, type: action, action: log, expect_status: [x]",
        "steps.a.expect_status[0]",
        'found "x", expected a whole number',
        "",
    ),
]


@pytest.mark.parametrize(("step", "where", "message", "hint"), WRONG_STEPS)
def test_a_step_with_one_thing_wrong_has_one_fault(step, where, message, hint):
    ((found, said, meant),) = faults(steps(step))
    assert found == where
    assert message in said
    assert meant == hint


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("steps: []", "name", "name is missing", ""),
        ("name: x", "steps", "steps is missing: a list of steps", ""),
        ("name: -x\nsteps: []", "name", "expected a name of at most 128", ""),
        ("name: x\nsteps: {}", "steps", "found a mapping, expected a list of steps", ""),
        ("name: x\nsteps: [3]", "steps[0]", "found 3, expected a mapping", ""),
        ("name: x\nversion: 1.10\nsteps: []", "version", "found 1.1, expected a version", 'did you mean "1.10"?'),
        ("name: x\nsteps: []\noutputs: 3", "outputs", "found 3, expected a mapping or a list of identifiers", ""),
        ("name: x\nsteps: []\non_failure: fallback", "on_failure", 'found "fallback", expected one of', ""),
        ("name: x\nsteps: []\ntimeout: 3", "timeout", 'a workflow has no key "timeout"', ""),
        (
            "name: x\nsteps: []\ninputs: {a: string}",
            "inputs.a",
            'found "string", expected a JSON schema',
            "{type: string}",
        ),
        ("name: x\nsteps: []\ninputs: [a]", "inputs", "found a list of 1, expected a mapping", ""),
    ],
)
def test_a_workflow_with_one_thing_wrong_has_one_fault(text, where, message, hint):
    ((found, said, meant),) = faults(read(text))
    assert found == where
    assert message in said
    assert meant == hint or not hint


def test_everything_that_is_wrong_is_told_at_once_in_the_texts_order():
    source = steps("id: a, type: lmm", "id: b, type: wait, x: 1, y: 2", "type: wait", "id: d, type: wait, output: 3")
    assert [(fault.line, fault.where) for fault in source.faults] == [
        (3, "steps.a.type"),
        (4, "steps.b.x"),
        (4, "steps.b.y"),
        (5, "steps[2].id"),
        (6, "steps.d.output"),
    ]
    assert source.definition is not None  # for the checks that go on


def test_what_can_be_left_out_leaves_a_definition_for_other_checks():
    source = steps("id: a, type: llm, route: echo, promt: '{{ nobody }}', timeout_seconds: 0")
    assert len(source.faults) == 2
    assert source.definition is not None
    assert source.definition.steps[0].prompt == "{{ nobody }}"


def test_custom_types_are_taken_where_they_are_known():
    text = (
        "name: x\nsteps: [{id: p, type: parallel, steps: [{id: a, type: mine, options: {n: 1}}]}, {id: b, type: mine}]"
    )
    for source in (read(text, kinds=("mine",)), read(text), read_tree(read(text).tree, {"mine"})):
        assert source.faults == []
        assert source.definition is not None
        assert source.definition.steps[0].steps[0] == CustomStep(id="a", type="mine", options={"n": 1})
        assert source.definition.steps[1] == CustomStep(id="b", type="mine")
    again = read(msgspec.json.encode(source.definition), "json")
    assert again.definition == source.definition
    unknown = read(text, kinds=("mini",))
    assert [fault.hint for fault in unknown.faults] == ["did you mean mini?"] * 2
    assert "has no key" in read(text.replace("options", "option"), kinds=("mine",)).faults[0].message


def test_a_thousand_faults_are_told_and_that_there_are_more():
    source = steps(*["x: 1"] * 1500)
    assert len(source.faults) == 1001
    assert "more problems" in source.faults[-1].message


VALID = [
    read(EVERYTHING).tree,
    *(read(file.read_bytes()).tree for file in sorted((ROOT / "examples" / "workflows").glob("*.yaml"))),
]
NAMES = st.sampled_from("id type steps then cases name output inputs prompt llm branch mine wait properties".split())
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn):
    """A valid tree with a few places changed."""
    tree = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    for _ in range(draw(st.integers(1, 3))):
        holder = tree
        while inner := list(holder) if isinstance(holder, dict) else list(range(len(holder))):
            key = draw(st.sampled_from(inner))
            if not isinstance(holder[key], dict | list) or draw(st.integers(0, 3)) == 0:
                change = draw(st.sampled_from(["replace", "delete", "add"]))
                if change == "replace":
                    holder[key] = draw(ODD)
                elif change == "delete":
                    del holder[key]
                elif isinstance(holder, dict):
                    holder[draw(NAMES)] = draw(ODD)
                else:
                    holder.insert(key, draw(ODD))
                break
            holder = holder[key]
    return tree


many = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])


@given(tree=changed())
@many
def test_a_tree_that_is_nearly_right_is_read_or_refused(tree):
    source = read_tree(tree)
    try:
        text = msgspec.json.encode(tree)
    except (OverflowError, UnicodeEncodeError):
        assert source.faults
        return
    written = read(text, "json")
    if source.faults:
        event("refused")
        told = sorted((fault.where, fault.message) for fault in source.faults)
        if not any("JSON cannot hold" in message for _, message in told):  # that JSON has not said at all
            assert sorted((fault.where, fault.message) for fault in written.faults) == told
        assert all(fault.line >= 1 and fault.column >= 1 for fault in written.faults)
    else:
        event("read")
        assert source.definition == written.definition
        assert read_tree(msgspec.to_builtins(source.definition)).definition == source.definition


@given(tree=ODD)
@many
def test_any_tree_is_read_or_refused(tree):
    source = read_tree(tree)
    assert source.faults
    assert all(fault.where and fault.message for fault in source.faults)


@given(data=st.data())
@many
def test_a_text_with_a_few_characters_changed_is_read_or_refused_with_places(data):
    text = EVERYTHING
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 20))
        text = text[:start] + data.draw(st.text("[]{}:-&*!|\"'# \n01a~<\t", max_size=3)) + text[end:]
    source = read(text)
    assert source.faults or source.definition is not None
    assert all(fault.line >= 1 and fault.column >= 1 and fault.where for fault in source.faults)
    if not source.faults:
        assert read(to_yaml(source.definition)).definition == source.definition


@pytest.mark.slow
def test_a_process_that_read_definitions_ends_without_a_crash():
    """Unions of a text with a pattern and a list make msgspec corrupt memory when it frees them."""
    program = (
        "import gc, msgspec; from pipeline.workflow.definition import *; from msgspec import inspect\n"
        "for _ in range(20): [msgspec.json.Decoder(list[one]) for one in AnyStep.__args__]; gc.collect()\n"
        "for _ in range(20): msgspec.json.Decoder(tuple[tuple(f.type for f in msgspec.structs.fields(LlmStep))])\n"
        "inspect.type_info(Definition); gc.collect()"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_steps_are_read_within_its_time():
    lines = ["name: big", "steps:"]
    for number in range(10_000):
        lines += [
            f"  - id: s{number}",
            "    type: llm",
            "    route: echo",
            f'    prompt: "{{{{ s{number - 1} }}}} is {number}"',
        ]
    text = "\n".join(lines).replace("{{ s-1 }}", "nothing")
    best = min(_seconds(text) for _ in range(3))
    assert best < 0.6


def _seconds(text: str) -> float:
    started = time.process_time()
    source = read(text)
    spent = time.process_time() - started
    assert isinstance(source.definition, Definition)
    assert len(source.definition.steps) == 10_000
    return spent
