"""Expressions of one shape are compiled once, and come to what jinja2 makes of each of them alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.template_forms import Jinja
from pipeline.workflow.template_shapes import Shaped
from pipeline.workflow.templates import Compiled, Failed, Limits, Refused, _jinja, _shape, _text
from tests.workflow.names import Variables

NAMES = Variables(
    steps={"a": {"text": "one Word", "n": 3, "null": None, "list": [3, 1, 2]}, "b": {"text": "", "on": True}},
    inputs={"topic": "tea", "rows": [{"k": 1}, {"k": 2}], "upper": "not a filter"},
    v0="mine",
    items={"items": 1, "keys": [1]},
    text="a < b",
)
LIMITS = Limits(max_chars=1000, timeout=5)

_LEAVES = [
    *("steps.a.text", "steps.a.n", "steps.a.null", "steps.a.list", "steps['b'].on", "inputs.rows[1].k", "v0", "text"),
    *("inputs.rows[-1]", "inputs.rows[7].k", "steps.gone.text", "gone", "gone.deeper", "inputs.upper", "items.items"),
    *(
        "items.keys",
        "steps.a",
        "1",
        "0.5",
        "'is if'",
        '"|"',
        "true",
        "none",
        "None",
        "else",
        "in",
        "if",
        "not",
        "loop",
        "self",
        "range",
        "x.y.z",
    ),
]
_FILTERS = ["upper", "length", "default('d')", "d(steps.b.text)", "truncate(3, true)", "join(', ')", "trim", "list"]
_FILTERS += ["sort(reverse=true)", "map(attribute='k')", "first", "int", "float | round(1)", "string", "nope", "tojson"]
_TESTS = ["defined", "undefined", "none", "not defined", "divisibleby 2", "divisibleby(2)", "string", "in 'abc'", "odd"]
_SIGNS = ["==", "!=", "<", ">=", "~", "+", "-", "*", "/", "//", "%", "and", "or", "in", "not in", "is", "|", "if", "**"]


def _deeper(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{} | {}".format, inner, st.sampled_from(_FILTERS)),
        st.builds("{} is {}".format, inner, st.sampled_from(_TESTS)),
        st.builds("{} {} {}".format, inner, st.sampled_from(_SIGNS), inner),
        st.builds("{} if {} else {}".format, inner, inner, inner),
        st.builds("({})".format, inner),
        st.builds("not {}".format, inner),
        st.builds("-{}".format, inner),
        st.builds("{},\n{}".format, inner, inner),
        st.builds("[{}]".format, inner),
        st.builds("{{'k': {}}}.k".format, inner),
        st.builds("{}.upper()".format, inner),
        st.builds("{}.split( {})".format, inner, inner),
        st.builds("{}.{}()".format, inner, st.sampled_from(["keys", "get", "gone", "strip "])),
        st.builds("{}(1)".format, inner),
        st.builds("{}[{}]".format, inner, inner),
    )


EXPRESSIONS = st.recursive(st.sampled_from(_LEAVES), _deeper, max_leaves=6)
_OPENED = st.sampled_from(["{{ ", "{{", "{{- ", "{{\n", "{{+ "])
_CLOSED = st.sampled_from([" }}", "}}", " -}}", "\n}}", "+}}"])
_TEMPLATES = st.builds("{}{}{}".format, _OPENED, EXPRESSIONS, _CLOSED)
_BETWEEN = st.sampled_from(["", " ", "said:\n", "{# no #}", "{% if v0 %}y{% endif %}", "}}", "{", "\r\n"])
TEXTS = st.lists(st.one_of(_TEMPLATES, _BETWEEN), max_size=5).map("".join)


def _outcome(compiled: Compiled) -> Any:
    try:
        value = compiled.render(NAMES, limits=LIMITS)
    except Failed as failed:
        return "failed", failed.message, failed.reference
    return type(value), value


def _both(text: str, *, expression: bool) -> tuple[Any, Any]:
    made = []
    for make in (_jinja, _text):
        try:
            made.append(make(text, expression=expression))
        except Refused as refused:
            made.append((refused.message, refused.line))
    return made[0], made[1]


@settings(max_examples=600, deadline=None)
@given(TEXTS, st.booleans())
def test_comes_to_the_same_as_by_itself(text: str, expression: bool) -> None:
    alone, found = _both(text, expression=expression)
    if not isinstance(found, Shaped):
        return
    assert isinstance(alone, Jinja), (text, alone)
    assert sorted(found.references) == sorted(alone.references), text
    assert sorted(found.optional) == sorted(alone.optional), text
    assert _outcome(found) == _outcome(alone), text


@pytest.mark.parametrize(
    "text",
    [
        "Go on from {{ steps.a.text | upper }} and {{ steps.b.text | trim | default('nothing') }}.",
        "{{ steps.a.n > 2 and steps.b.on is not none }}",
        "{{ steps.a.list | sort(reverse=true) | join(', ') }}",
        "{{ steps.gone.text | default('d') }}",
        "{{ v0 if v0 is defined else text }}",
        "{{ items.items | list }}",
        "{{ steps.a.text.split(' ') | first }}",
        "{{ steps.gone.text.upper() }}",
        "{{ 'x' is in text }} {{ text not in 'x' }}",
        "{{ steps.gone.text | upper }}",
        "{{ steps.a.list[9] | upper }}",
    ],
)
def test_has_a_shape(text: str) -> None:
    alone, found = _both(text, expression=False)
    assert isinstance(found, Shaped)
    assert (set(found.references), set(found.optional)) == (set(alone.references), set(alone.optional))
    assert _outcome(found) == _outcome(alone)


def test_one_is_compiled_for_all() -> None:
    _shape.cache_clear()
    for n in range(100):
        compiled = _text(
            f"{{{{ steps.s{n}.text | upper | truncate(7) }}}}, {{{{ inputs.i{n} | upper | truncate(7) }}}}"
        )
        assert compiled.references == (("steps", f"s{n}", "text"), ("inputs", f"i{n}"))
    assert _shape.cache_info().misses == 1


@pytest.mark.parametrize(
    "text",
    [
        "{{ x.other() }}",
        "{{ [x] }}",
        "{{- x | upper }}",
        "{{ x | upper -}}",
        "{{ x[y] }}",
        "{% if x %}{{ x | upper }}{% endif %}",
    ],
)
def test_jinja_keeps_the_rest(text: str) -> None:
    assert isinstance(_text(text), Jinja)


def test_what_is_refused_is_refused_as_before() -> None:
    with pytest.raises(Refused, match="No filter named 'nope'") as refused:
        _text("one\ntwo {{ x |\n nope }}")
    assert refused.value.line == 3
