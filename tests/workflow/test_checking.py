"""Everything that is found before anything is spent."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.workflow.checking import bundle, check, examine, planned, resolve
from pipeline.workflow.definition import CustomStep, Definition, WorkflowStep
from pipeline.workflow.errors import DefinitionRefused, Fault, UnknownWorkflow
from pipeline.workflow.ports import Kind, Result, StepContext
from pipeline.workflow.source import read
from tests.workflow.definitions import branch, definition, llm, step


class Configured:
    """A catalog with two routes, one of which embeds."""

    def routes(self) -> Sequence[str]:
        return ["echo", "vectors"]

    def collections(self) -> Sequence[str]:
        return ["docs"]

    def embeds(self, route: str) -> bool:
        return route == "vectors"

    def route_of(self, provider: str, model: str | None) -> str | None:
        return "echo" if provider == "echo" and model in {None, "echo"} else None

    def allows(self, url: str) -> bool:
        return "elsewhere" not in url

    def files(self) -> bool:
        return True


class Shelf:
    """A library of what it is given."""

    def __init__(self, **known: Definition) -> None:
        self.known = known

    async def definition(self, reference: str) -> Definition:
        if reference == "refused":
            raise DefinitionRefused([Fault("steps.a", "is wrong")])
        if reference not in self.known:
            raise UnknownWorkflow(reference)
        return self.known[reference]


async def nothing(step: CustomStep, context: StepContext) -> Result:
    return Result(step.options)


def said(found: Sequence[Fault]) -> list[tuple[str, str]]:
    return [(fault.where, fault.message) for fault in found]


def found(*steps: dict[str, Any], **root: Any) -> list[tuple[str, str]]:
    return said(check(definition(*steps, **root), catalog=Configured()))


# Never run.


def test_constant_conditions_and_what_hangs_on_them() -> None:
    assert found(
        llm("a", condition="1 > 2"),
        llm("b", "{{ a }}"),
        llm("c", "{{ b }}{{ d }}"),
        llm("d"),
        llm("e", condition=False),
    ) == [
        ("steps.a", "never runs: its condition is always false"),
        ("steps.e", "never runs: its condition is always false"),
        ("steps.b", "never runs: all that it depends on never runs (a)"),
    ]


def test_cases_that_are_never_taken() -> None:
    assert found(
        branch("b", ("false", "x"), (True, "y"), ("inputs.q", "z"), default="w"),
        *(llm(name) for name in "wxyz"),
        inputs={"q": {}},
    ) == [
        ("steps.b.cases[0]", "never taken: its condition is always false"),
        ("steps.b.cases[2]", "never taken: case 2 is always true"),
        ("steps.b.default", "never taken: case 2 is always true"),
        ("steps.w", "never runs: no case of b that names it is ever taken"),
        ("steps.x", "never runs: no case of b that names it is ever taken"),
        ("steps.z", "never runs: no case of b that names it is ever taken"),
    ]


def test_branches_that_exclude_each_other() -> None:
    first = branch("first", ("inputs.q == 1", ["a", "second"]), default=["b"])
    second = branch("second", ("inputs.q == 2", ["b"]), default=["c"])
    steps = [first, second, llm("a"), llm("b"), llm("c"), llm("d", "{{ a }}{{ c }}{{ b }}")]
    assert found(*steps, inputs={"q": {}}) == [("steps.b", "never runs: first would have to take two cases at once")]


def test_a_step_under_one_case_that_needs_one_under_another() -> None:
    steps = [branch("which", ("inputs.q", "a"), default="b"), llm("a"), llm("b", "{{ a }}")]
    assert found(*steps, inputs={"q": {}}) == [("steps.b", "never runs: which would have to take two cases at once")]


def test_a_join_after_a_branch_runs() -> None:
    steps = [branch("which", ("inputs.q", "a"), default="b"), llm("a"), llm("b"), llm("c", "{{ a }}{{ b }}")]
    assert not found(*steps, inputs={"q": {}})


def test_an_expression_that_always_fails() -> None:
    ((where, message),) = found(llm("a", condition="1 / 0 > 1"))
    assert where == "steps.a.condition"
    assert message.startswith("this always fails: ")


def test_constants_that_come_to_a_limit_are_left_alone() -> None:
    long = "range(90000) | map('string') | join | length > {}"
    before = time.perf_counter()
    assert not found(*(llm(f"s{number}", condition=long.format(number)) for number in range(50)))
    assert time.perf_counter() - before < 10


# Types and fields.


MAPPED = [{"id": "b", "type": "wait", "seconds": 1}]


@pytest.mark.parametrize(
    ("made", "where", "message"),
    [
        (llm("a", temperature="hot"), "temperature", "expected a number from 0 to 2, not 'hot'"),
        (llm("a", temperature=3), "temperature", "expected a number from 0 to 2, not 3"),
        (llm("a", temperature=True), "temperature", "expected a number from 0 to 2, not True"),
        (llm("a", max_tokens=0), "max_tokens", "expected a whole number from 1, not 0"),
        (llm("a", max_tokens=1.5), "max_tokens", "expected a whole number from 1, not 1.5"),
        (llm("a", top_p=-1), "top_p", "expected a number from 0 to 1, not -1"),
        (llm("a", seed="x"), "seed", "expected a whole number, not 'x'"),
        (llm("a", temperature="{{ name }}"), "temperature", "expected a number from 0 to 2, but name is string"),
        (
            step("map", "a", items="{{ inputs.name }}", steps=MAPPED),
            "items",
            "expected a list, but inputs.name is string",
        ),
        (step("map", "a", items={"a": 1}, steps=MAPPED), "items", "expected a list, not {'a': 1}"),
        (step("map", "a", items="x", steps=MAPPED), "items", "expected a list, not 'x'"),
        (step("map", "a", items="{{ draft }}", steps=MAPPED), "items", "expected a list, but draft is string"),
        (
            step("reduce", "a", items="{{ steps.draft.text }}", value=1),
            "items",
            "expected a list, but steps.draft.text is string",
        ),
        (
            step("vector_search", "a", collection="docs", query="x", limit=-1),
            "limit",
            "expected a whole number from 1 to 1000, not -1",
        ),
        (
            step("vector_search", "a", collection="docs", query="x", min_score="x"),
            "min_score",
            "expected a number, not 'x'",
        ),
        (
            step("vector_upsert", "a", collection="docs", documents=[{"no": 1}]),
            "documents",
            "expected a text, an object with `text`, or a list of those, not [{'no': 1}]",
        ),
        (step("embed", "a", route="vectors", input=5), "input", "expected a text or a list of texts, not 5"),
        (step("wait", "a", seconds=-1), "seconds", "expected a number of seconds, 0 or more, not -1"),
        (
            step("wait", "a", until="soon"),
            "until",
            "expected a moment with its offset, like 2030-01-31T08:00:00Z, not 'soon'",
        ),
        (step("wait", "a", event=""), "event", "expected a name, not ''"),
        (
            step("action", "a", action="webhook", url="ftp://x"),
            "url",
            "expected an address that begins with http:// or https://, not 'ftp://x'",
        ),
        (llm("a", route="eco"), "route", "there is no route 'eco'"),
        (
            step("embed", "a", route="echo", input="x"),
            "route",
            "the route 'echo' leads to a worker that makes no vectors",
        ),
        (step("embed", "a", collection="dogs", input="x"), "collection", "there is no collection 'dogs'"),
        (step("vector_search", "a", collection="dogs", query="x"), "collection", "there is no collection 'dogs'"),
        (
            step("llm", "a", provider="openai", model="m", prompt="x"),
            "provider",
            "no route leads to openai with the model m",
        ),
        (step("llm", "a", prompt="x"), "", "one of `route` and `provider` is needed"),
        (llm("a", provider="echo"), "provider", "only one of `route` and `provider` can be given"),
        (llm("a", model="echo"), "model", "`model` goes with `provider`; a route says which model it uses"),
        (step("llm", "a", route="echo"), "", "one of `prompt` and `messages` is needed"),
        (
            llm("a", messages=[{"role": "user", "content": "x"}]),
            "messages",
            "only one of `prompt` and `messages` can be given",
        ),
        (
            step("llm", "a", route="echo", messages=[]),
            "messages",
            "expected at least one message that is not the system's",
        ),
        (step("reduce", "a", items=[1]), "", "one of `value` and `steps` is needed"),
        (
            step("reduce", "a", items=[1], value=1, accumulator="item"),
            "as",
            "the item and the accumulator have the same name, 'item'",
        ),
        (
            step("map", "a", items=[1], steps=MAPPED, **{"as": "index"}),
            "as",
            "`index` is the item's number inside of a map",
        ),
        (
            step("loop", "a", variables={"iteration": 1}, steps=MAPPED),
            "variables.iteration",
            "`iteration` is the iteration's number inside of a loop",
        ),
        (step("wait", "a"), "", "one of `seconds`, `until` and `event` is needed"),
        (step("wait", "a", seconds=1, event="x"), "event", "only one of `seconds`, `until` and `event` can be given"),
        (step("action", "a", action="log"), "", "log needs `message`"),
        (step("action", "a", action="log", message="x", url="http://x"), "url", "log takes no `url`"),
        (llm("a", on_failure="fallback"), "on_failure", "on_failure: fallback needs the field `fallback`"),
        (llm("a", fallback=1), "fallback", "`fallback` is used only with on_failure: fallback"),
        (llm("a", output=["a1", "a2", "a3", "a4", "a5"]), "output", "5 names, but a step of type llm has 4 fields"),
        (llm("a", "{{ x"), "prompt", None),
        (llm("a", output_schema={"type": "strin"}), "output_schema.type", None),
        (step("transform", "a", operation="regex", input="x", pattern="("), "pattern", None),
        (step("transform", "a", operation="json_path", input={}, path="$["), "path", None),
    ],
)
def test_one_thing_that_is_wrong(made: dict[str, Any], where: str, message: str | None) -> None:
    """Without a message: whatever others say is wrong with it, its place is told."""
    (fault,) = found(made, llm("draft"), inputs={"name": {"type": "string"}})
    assert fault[0] == (f"steps.a.{where}" if where else "steps.a")
    assert message in {None, fault[1]}


@pytest.mark.parametrize(
    "made",
    [
        step("embed", "a", route="{{ steps.draft.usage }}", input="x"),
        step("wait", "a", until="2030-01-31T08:00:00Z"),
        step("action", "a", action="webhook", url="{{ inputs.name }}"),
        llm("a", route="{{ name }}"),
        step("llm", "a", provider="echo", prompt="x"),
        step("action", "a", action="file_write", path="x", content="", append=True),
        step("wait", "a", seconds="0.5"),
        step("embed", "a", route="vectors", input=["x", "y"]),
        step("map", "a", items="{{ steps.draft.usage }}", steps=MAPPED),
        step("map", "a", items="{{ inputs.name | list }}", steps=MAPPED),
        step("vector_upsert", "a", collection="docs", documents=["x", {"text": "y"}]),
    ],
)
def test_what_may_be_right(made: dict[str, Any]) -> None:
    assert not found(made, llm("draft"), inputs={"name": {"type": "string"}})


def test_without_a_catalog_routes_and_collections_are_left_out() -> None:
    made = definition(llm("a", route="no"), step("vector_search", "b", collection="no", query="x"))
    assert not check(made)
    assert [fault.hint for fault in check(made, catalog=Configured())] == ["there are echo, vectors", "there are docs"]


def test_custom_types_and_their_options() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made = custom_definition()
    kinds: Mapping[str, Kind] = {"shout": Kind(nothing, schema)}
    faults = check(made, kinds=kinds)
    assert [(fault.where, fault.hint) for fault in faults] == [
        ("steps.c.type", "did you mean shout?"),
        ("steps.a.options.n", ""),
    ]
    assert said(check(made, kinds={"shout", "shoot"})) == []


def custom_definition() -> Definition:
    made = definition(llm("x"))
    made.steps.extend(
        [  # type: ignore[arg-type]
            CustomStep(id="a", type="shout", options={"n": "three"}),
            CustomStep(id="b", type="shout", options={"n": "{{ x }}"}),
            CustomStep(id="c", type="shoot"),
        ]
    )
    return made


def test_inputs_of_called_workflows() -> None:
    sub = definition(
        llm("a", "{{ inputs.topic }}"),
        name="sub",
        inputs={"topic": {"type": "string"}, "style": {"type": "string", "default": "dry"}},
    )
    made = definition(
        step("workflow", "a", workflow="sub"),
        step("workflow", "b", workflow="sub", inputs={"topic": 5, "stile": "x"}),
        step("workflow", "c", workflow="sub", inputs={"topic": "{{ steps.a.value.x }}"}),
    )
    faults = check(made, others={"sub": sub})
    assert [(fault.where, fault.hint) for fault in faults] == [
        ("steps.a.inputs", ""),
        ("steps.b.inputs.topic", ""),
        ("steps.b.inputs.stile", "did you mean style?"),
    ]
    assert faults[0].message == "the workflow sub needs topic"


def test_schemas_of_inputs_and_their_defaults() -> None:
    wrong = {"a": {"type": "strin"}}
    assert [where for where, _ in found(llm("x"), inputs=wrong)] == ["inputs.a.type"]
    full = {"type": "object", "properties": wrong}
    assert [where for where, _ in found(llm("x"), inputs=full)] == ["inputs.properties.a.type"]
    default = {"n": {"type": "integer", "default": "three"}}
    assert [where for where, _ in found(llm("x"), inputs=default)] == ["inputs.n.default"]


def test_everything_is_told_at_once() -> None:
    faults = found(
        llm("a", "{{ inputs.x }}", route="eco", temperature="hot"),
        llm("b", "{{ steps.c.text }}", depends_on=["b2"]),
        llm("c", "{{ b }} {{ x"),
        step("map", "m", items=5, steps=[llm("d", max_tokens=0)]),
    )
    assert {where for where, _ in faults} == {
        "steps.a.prompt",
        "steps.a.route",
        "steps.a.temperature",
        "steps.b.depends_on[0]",
        "steps.c.prompt",
        "steps.m.items",
        "steps.m.steps.d.max_tokens",
    }


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf")])
def test_what_json_cannot_hold(value: object) -> None:
    assert found(llm("a", metadata={"n": value}))[0][1].startswith("holds something that JSON cannot hold")


def test_large_numbers_are_kept() -> None:
    assert not found(llm("a", metadata={"n": 10**30}))


def test_no_steps() -> None:
    assert found() == [("steps", "a workflow has at least one step")]


def test_examine_gives_the_plan_with_it() -> None:
    good = examine(definition(llm("a")))
    assert good.plan is not None
    assert not good.faults
    assert examine(definition(llm("a", temperature=9))).plan is None


# In a text.

TEXT = """\
name: main
inputs:
  topic: {type: strin}
steps:
  - id: which
    type: branch
    cases:
      - when: inputs.topik == 'x'
        then:
          - id: beside
            type: llm
            route: eco
            prompt: |
              one
              {{ nowhere }}
    default: beyond
  - {id: each, type: map, items: 5, steps: [{id: deep, type: llm, route: echo, prompt: "{{ each }}", temprature: 1}]}
outputs:
  last: "{{ steps.last.text }}"
"""


@pytest.mark.parametrize("media", ["yaml", "json"])
def test_faults_have_their_place_in_the_text(media: str) -> None:
    text = TEXT if media == "yaml" else json.dumps(yaml.safe_load(TEXT), indent=1)
    source = read(text, media)
    faults = check(source, catalog=Configured())
    assert [fault.where for fault in faults] == [
        "inputs.properties.topic.type",
        "steps.which.cases[0].when",
        "steps.beside.route",
        "steps.beside.prompt",
        "steps.which.default[0]",
        "steps.each.items",
        "steps.each.steps.deep.prompt",
        "steps.each.steps.deep.temprature",
        "outputs.last",
    ]
    lines = text.splitlines()
    marks = ["strin", "topik", "eco", "nowhere", "beyond", "5", "each }}", "temprature", "steps.last"]
    for fault, mark in zip(faults, marks, strict=True):
        assert mark in lines[fault.line - 1]
        assert fault.column >= 1
    assert examine(source).plan is None


def test_a_text_that_cannot_be_read_has_its_own_faults() -> None:
    source = read("name: [", "yaml")
    assert examine(source) == (list(source.faults), None)


# Bundles.


async def test_resolve_follows_calls() -> None:
    library = Shelf(
        one=definition(step("workflow", "s", workflow="two"), name="one"),
        two=definition(step("map", "m", items=[1], steps=[step("workflow", "s", workflow="one")]), name="two"),
        three=definition(llm("a"), name="three"),
    )
    made = definition(
        step("workflow", "a", workflow="one"),
        step("workflow", "b", workflow="missing"),
        step("workflow", "c", workflow="refused"),
        step("workflow", "d", workflow="main@1"),
        step("parallel", "p", steps=[step("workflow", "e", workflow="three")]),
    )
    others = await resolve(made, library)
    assert list(others) == ["one", "three", "two"]
    assert said(check(made, others=others)) == [
        ("steps.a.workflow", "workflow one calls itself: one → two → one"),
        ("steps.b.workflow", "workflow missing: missing"),
        ("steps.c.workflow", "workflow refused: The workflow is not valid: steps.a: is wrong"),
        ("steps.d.workflow", "workflow main@1 calls itself: main → main"),
    ]


def test_the_same_content_has_the_same_digest() -> None:
    sub = definition(llm("a"), name="sub")
    one = definition(step("workflow", "s", workflow="sub"), metadata={"a": 1, "b": 2})
    two = definition(step("workflow", "s", workflow="sub"), metadata={"b": 2, "a": 1})
    assert bundle(one, {"sub": sub}).digest == bundle(two, {"sub": sub, "unused": one}).digest
    assert bundle(one, {"sub": sub}).digest != bundle(one, {"sub": definition(llm("b"), name="sub")}).digest
    assert re.fullmatch("[0-9a-f]{64}", bundle(one).digest)


def test_a_bundle_is_planned_as_it_was() -> None:
    sub = definition(llm("a"), llm("b", "{{ a }}"), name="sub")
    made = custom_definition()
    made.steps.append(msgspec.convert(step("workflow", "s", workflow="sub"), WorkflowStep))
    together = definition(step("parallel", "p", steps=[llm("q")])).steps
    together[0].steps.append(CustomStep(id="deep", type="other", options={"x": "{{ q }}"}))  # type: ignore[union-attr]
    made.steps.extend(together)
    stored = msgspec.json.decode(msgspec.json.encode(bundle(made, {"sub": sub})), type=type(bundle(made)))
    again = planned(stored)
    assert again.definition == made
    assert again.steps == 10
    assert bundle(again.definition, {"sub": sub}).digest == stored.digest


# Whatever comes.

texts = st.sampled_from(
    [
        "x",
        "{{ a }}",
        "{{ b.c }}",
        "{{ steps.a.text }}",
        "{{ inputs.q }}",
        "{{",
        "{% if",
        "",
        "{{ item }}",
        "\ud800",
        "a\nb",
    ]
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=6,
)
ids = st.sampled_from(["a", "b", "c", "my-id", "inputs"])


def steps_with(inner: st.SearchStrategy[list[dict[str, Any]]]) -> st.SearchStrategy[dict[str, Any]]:
    common = {"id": ids}
    more = {
        "depends_on": st.lists(ids, max_size=2),
        "condition": st.one_of(texts, st.booleans()),
        "output": st.one_of(ids, st.lists(ids, max_size=5)),
        "fallback": values,
        "on_failure": st.sampled_from(["fail", "continue", "fallback"]),
    }

    def of(type_: str, needed: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"type": st.just(type_), **common, **needed}, optional={**more, **optional})

    operations = st.sampled_from(["filter", "regex", "json_path"])
    then = st.one_of(ids, st.lists(ids, max_size=3), values)
    case = st.fixed_dictionaries({"when": st.one_of(texts, st.booleans()), "then": then})
    names = st.dictionaries(ids, values, max_size=2)
    return st.one_of(
        of("llm", {}, route=values, prompt=values, temperature=values, provider=texts, output_schema=st.booleans()),
        of("embed", {"input": values}, route=values, collection=values),
        of("vector_search", {"collection": values, "query": values}, limit=values),
        of("vector_upsert", {"collection": values, "documents": values}),
        of("transform", {"operation": operations}, where=texts, pattern=texts, path=texts),
        of("branch", {"cases": st.lists(case, min_size=1, max_size=3)}, default=then),
        of("parallel", {"steps": inner}),
        of("map", {"steps": inner, "items": values}, result=values, **{"as": ids}),
        of("reduce", {"items": values}, steps=inner, value=values, accumulator=ids),
        of("loop", {"steps": inner}, until=texts, variables=names),
        of("action", {"action": st.sampled_from(["log", "webhook", "file_write"])}, url=values, headers=names),
        of("workflow", {"workflow": st.sampled_from(["main", "sub", "none"])}, inputs=names),
        of("wait", {}, seconds=values, until=values, event=values),
    )


leaves = st.lists(steps_with(st.just([{"type": "llm", "id": "z"}])), min_size=1, max_size=3)
definitions = st.fixed_dictionaries(
    {"name": st.just("main"), "steps": st.lists(steps_with(leaves), max_size=4)},
    optional={
        "inputs": st.dictionaries(st.sampled_from(["q", "type", "properties", "required", "$ref"]), values, max_size=3),
        "outputs": st.one_of(st.dictionaries(ids, values, max_size=2), st.lists(ids, max_size=2)),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(definitions)
def test_checks_raise_nothing_whatever_comes(tree: dict[str, Any]) -> None:
    made = msgspec.convert(tree, Definition)
    sub = definition(llm("a"), name="sub", inputs={"a": {"type": "string"}})
    found = examine(made, others={"sub": sub}, catalog=Configured())
    assert (found.plan is None) == bool(found.faults)
    if found.plan is not None:
        assert planned(bundle(made, {"sub": sub})).steps == found.plan.steps


@pytest.mark.slow
@pytest.mark.alone
def test_ten_thousand_steps_are_checked_in_proportion() -> None:
    def seconds(count: int) -> float:
        made = definition(
            *(llm(f"s{i}", f"Go on: {{{{ s{i - 1} }}}}" if i else "x", temperature=0.5) for i in range(count))
        )
        before = time.perf_counter()
        assert not check(made, catalog=Configured())
        return time.perf_counter() - before

    few = min(seconds(1000) for _ in range(3))
    assert few < 0.5
    assert seconds(10_000) < max(30 * few, 4.0)
