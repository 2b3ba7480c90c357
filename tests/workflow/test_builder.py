"""What is built in Python is what files say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.builder import Reference, Workflow, written
from pipeline.workflow.definition import BranchStep, CustomStep
from pipeline.workflow.errors import DefinitionRefused
from pipeline.workflow.source import read
from pipeline.workflow.writing import to_json, to_yaml

WRITTEN = """\
name: review
version: "2"
inputs:
  text: {type: string}
  count: {type: integer, default: 2}
steps:
  - {id: draft, type: llm, route: echo, prompt: "Summarise: {{ inputs.text }}", retry: {max_attempts: 2}}
  - {id: check-it, type: llm, route: echo, prompt: "{{ steps.draft.text }}", condition: "steps.draft.text != ''"}
  - {id: after, type: wait, seconds: "{{ inputs.count }}", depends_on: [draft, check-it]}
  - id: way
    type: branch
    cases:
      - {when: "steps['check-it'].text == 'x'", then: [after, {id: low, type: action, action: log, message: "low"}]}
      - {when: true, then: []}
    default: [{id: none, type: wait, seconds: 0}]
  - id: both
    type: parallel
    max_concurrency: 2
    steps: [{id: left, type: wait, seconds: 0}]
  - id: each
    type: map
    items: [a, b]
    as: thing
    steps: [{id: say, type: llm, route: echo, prompt: "{{ index }}: {{ thing.name }}"}]
  - {id: sum, type: reduce, items: "{{ steps.each.value }}", initial: 0, value: "{{ accumulator + item }}"}
  - id: again
    type: loop
    variables: {text: a}
    until: iteration > 1
    steps: [{id: better, type: llm, route: echo, prompt: "{{ text }}", output: text}]
  - {id: found, type: vector_search, collection: docs, query: a, limit: 2}
  - {id: kept, type: vector_upsert, collection: docs, documents: ["{{ steps.draft.text }}"]}
  - {id: vector, type: embed, input: a, route: echo}
  - {id: parts, type: transform, operation: split, input: a b, separator: " "}
  - {id: other, type: workflow, workflow: x@1, inputs: {a: "{{ steps.parts.value[0] }}"}}
  - {id: own, type: mine, options: {n: 1}}
outputs:
  summary: "{{ steps.draft.text }}"
  rest: ["{{ steps['check-it'].value }}", 1]
"""


def built() -> Workflow:
    w = Workflow("review", version="2")
    text, count = w.input("text", {"type": "string"}), w.input("count", {"type": "integer"}, default=2)
    draft = w.llm("draft", route="echo", prompt=f"Summarise: {text}", retry={"max_attempts": 2})
    checked = w.llm("check-it", route="echo", prompt=draft.text, condition=f"{draft.text:e} != ''")
    after = w.wait("after", seconds=count, depends_on=[draft, "check-it"])
    way = w.branch("way")
    low = way.case("steps['check-it'].text == 'x'", after)
    low.action("low", "log", message="low")
    way.case(True)
    way.default().wait("none", seconds=0)
    both = w.parallel("both", max_concurrency=2)
    both.wait("left", seconds=0)
    each = w.map("each", items=["a", "b"], as_="thing")
    each.llm("say", route="echo", prompt=f"{each.index}: {each.item.name}")
    total = w.reduce("sum", items=each, initial=0, value="{{ accumulator + item }}")
    assert f"{total.accumulator} {total.item}" == "{{ accumulator }} {{ item }}"
    again = w.loop("again", variables={"text": "a"}, until="iteration > 1")
    again.llm("better", route="echo", prompt=again.variable("text"), output="text")
    w.vector_search("found", collection="docs", query="a", limit=2)
    w.vector_upsert("kept", collection="docs", documents=[draft.text])
    w.embed("vector", input="a", route="echo")
    pieces = w.transform("parts", "split", input="a b", separator=" ")
    w.workflow("other", "x@1", {"a": f"{pieces:e}".join(("{{ ", "[0] }}"))})
    w.custom("own", "mine", {"n": 1})
    w.output("summary", draft.text)
    w.output("rest", [checked, 1])
    return w


def test_the_builder_makes_what_the_file_says():
    source = read(WRITTEN.replace("steps['check-it'].value", 'steps[\\"check-it\\"].value'))
    assert source.faults == []
    assert built().definition() == source.definition


def test_what_was_built_survives_yaml_and_json():
    w = built()
    assert read(w.to_yaml()).definition == w.definition()
    assert read(w.to_json(), "json").definition == w.definition()
    assert any(isinstance(step, CustomStep) for step in w.definition().steps)
    assert any(isinstance(step, BranchStep) for step in w.definition().steps)


def test_references_are_written_as_templates_and_bare_as_expressions():
    w = Workflow("x")
    step = w.wait("a-b", seconds=1)
    assert str(step) == '{{ steps["a-b"].value }}'
    assert f"{step.metadata.more[0]['odd key']:e}" == 'steps["a-b"].metadata.more[0]["odd key"]'
    assert written({"a": [step.value, ("b", 1)]}) == {"a": ['{{ steps["a-b"].value }}', ["b", 1]]}
    assert repr(Reference("inputs")["x"]) == "Reference('inputs.x')"
    with pytest.raises(ValueError, match="formats"):
        f"{step:>10}"
    with pytest.raises(AttributeError):
        step.__len__  # noqa: B018


def test_what_is_wrong_is_told_at_once():
    w = Workflow("x")
    w.add("a", "llm", promt="b")
    w.wait("1b", seconds=1)
    with pytest.raises(DefinitionRefused) as caught:
        w.definition()
    assert [fault.where for fault in caught.value.faults] == ["steps.a.promt", "steps[1].id"]


def test_validate_says_what_the_command_says():
    w = Workflow("x")
    w.llm("a", route="echo", prompt="{{ steps.nobody.text }}")
    (fault,) = w.validate()
    assert "nobody" in fault.message
    assert fault.where == "steps.a.prompt"
    good = Workflow("y")
    good.wait("a", seconds=1)
    assert good.validate() == []


TRAPS = ["010", "1e5", "0o17", "yes", "null", "~", "<<", "1_0", ".5", "-", "a: b", "# x", "| x", "\n", "a\n b\n", " a"]
TEXTS = (
    st.text(st.characters(codec="utf-8"), max_size=30)
    | st.sampled_from(TRAPS)
    | st.text("ab \n\t:#-'\"\r\x85\u2028\ufeff\x00", max_size=8)
)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(value=VALUES)
@settings(deadline=None, max_examples=200)
def test_whatever_is_in_a_value_survives_yaml_and_json(value):
    w = Workflow("x", metadata={"value": value})
    w.action("a", "log", message=value)
    definition = w.definition()
    assert read(to_yaml(definition)).definition == definition
    assert read(to_json(definition), "json").definition == definition
