"""Templates made to run for ever, to fill the memory, or to leave the sandbox."""

import sys
import threading
import time
import tracemalloc

import pytest

from pipeline.workflow.template_forms import Jinja
from pipeline.workflow.templates import Compiled, Failed, Limits, Refused, compile_expression, compile_value
from tests.workflow.names import NAMES, Variables

LIMITS = Limits(max_chars=100_000, timeout=0.2, max_value=200_000)

TOO_MUCH = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "{% macro m() %}" + "x" * 1000 + "{% endmacro %}{% for i in range(999) %}{% set y = m() %}{{ y }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaa') }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for p in rows recursive %}{{ loop(rows) }}{{ loop(rows) }}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 99999999 * 99999999 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ text.replace('a', text) }}",
    "{{ text | replace('', text) }}",
    "{{ text.join(big) }}",
    "{{ big | join(text) }}",
    "{{ 'a'.strip(text) }}",
    "{{ text | trim(text) }}",
    "{{ 1 | round(3000000) }}",
    "{{ 1 | round(3, 'ceil') }}",
    "{{ big | sum(start=[]) }}",
    "{{ rows | map(attribute=text) | list }}",
    "{{ rows | map(attribute='a.' ~ text, default={}) | list }}",
    "{{ rows | sort(false, false, text) }}",
    "{{ rows | tojson(indent=1000000000) }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a, a, a] %}" * 40 + "{{ a }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a, a, a] %}" * 40 + "{{ a | tojson }}",
    "{% set a = [1] %}{% set b = [1] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60 + "{{ a == b }}",
    "{% set a = {'k': 1} %}" + "{% set a = {'k': a, 'l': a} %}" * 60 + "{{ a.k.l is defined }}",
    "{% set a = [1] %}" + "{% set a = a + a %}" * 60 + "{{ a | length }}",
    "{% set a = 'a' %}" + "{% set a = a ~ a %}" * 60 + "{{ a | length }}",
    "{% set a = 'a' %}" + "{% set a = a + a %}" * 60 + "{{ a | length }}",
    "".join(f"{{% set a{i} = text[:90000] ~ {i} %}}" for i in range(300)) + "x",
    "".join(f"{{% set a{i} = text | upper %}}" for i in range(300)) + "x",
    "".join(f"{{% set a{i} = text[1:] %}}" for i in range(300)) + "x",
    "".join(f"{{% set a{i} = big | list %}}" for i in range(300)) + "x",
    "{{ range(99999)" + " | map('string') | map('upper') | map('string')" * 30 + " | list }}",
    "{{ range(99999)" + " | select | reject('none') | select" * 30 + " | list | length }}",
    "{% set r = range(99999) | list %}" + "{{ r | sort | reverse | list | length }}" * 200,
    "{{ " + " or ".join(["big == rest + [1]"] * 500) + " }}",
    "{% set r = range(99999) %}" + "{% for i in r if false %}{% endfor %}" * 300,
    "{{ text }}{{ text }}",
    "{{ ('[' * 100000) | fromjson }}",
    "{{ fake | fromjson }}",
    "{{ '9' * 5000 }}",
    "{{ ('9' ~ '9' * 1) | int * 10**12 * 10**12 }}",
    "{{ 'nan' | float }}",
    "{{ 2 ** 1000 }}",
    "{{ (ones | int(0, 2)) // (ones[1:] | int(0, 2)) > 0 }}",
    "{{ (ones | int(0, 2)) is divisibleby(3) }}",
    "{{ [ones] | map('int', 0, 2) | first is odd }}",
]


@pytest.mark.parametrize("text", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_takes_too_much_fails_soon(text):
    names = Variables(
        rows=[{"name": "Ann", "a": {"b": 1}}, {"name": "Bob", "a": {"b": 2}}],
        big=list(range(50_000)),
        rest=list(range(50_000)),
        text="a" * 100_000,
        fake="[" * 100_000,
        ones="1" * 90_000,
    )
    began = time.monotonic()
    with pytest.raises((Failed, Refused)):
        compile_value(text).render(names, limits=LIMITS)
    assert time.monotonic() - began < 3


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ rows | map(attribute='__class__.__mro__') | list }}",
    "{{ rows | sort(attribute='__class__') }}",
    "{{ rows | groupby('__class__') | list }}",
    "{{ rows | selectattr('__class__') | list }}",
    "{{ rows | sum(attribute='__class__') }}",
    "{{ rows | max(attribute='__class__') }}",
    "{{ rows | join(attribute='__class__') }}",
    "{{ rows | unique(attribute='__class__') | list }}",
    "{{ rows.append(1) }}",
    "{{ rows[0].update({}) }}",
    "{{ rows[0].pop('name') }}",
    "{{ rows.__len__() }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.format_map({}) }}",
    "{{ ['{0.__class__}'] | map('format', 1) | list }}",
    "{{ range.__self__ }}",
    "{{ topic.upper.__self__ }}",
    "{{ topic.upper }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m.name }}",
    "{% macro m() %}{% endmacro %}{{ m }}",
    "{% macro m() %}{{ caller.__init__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for i in rows %}{{ loop.__init__ }}{% endfor %}",
    "{% for i in rows %}{{ loop._iterator }}{% endfor %}",
    "{% for i in rows %}{{ loop }}{% endfor %}",
    "{{ self }}",
    "{{ self.__init__ }}",
    "{{ cycler('a') }}",
    "{{ joiner() }}",
    "{{ namespace(a=1) }}",
    "{{ lipsum() }}",
    "{{ dict(a=1) }}",
    "{% set ns.x = 1 %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{{ _meter }}",
    "{% set _meter = 1 %}",
    "{% macro _meter() %}{% endmacro %}",
    "{% set _meter.max_chars = 10 %}",
    "{{ rows | map('.', 'x', '__class__') | list }}",
    "{{ rows | map('method', '__class__') | list }}",
    "{{ ['a'] | map('method', 'format') | list }}",
    "{{ rows | pprint }}",
    "{{ rows | random }}",
    "{{ rows | xmlattr }}",
    "{{ 'x' | safe }}",
    "{{ context }}",
    "{{ environment }}",
    "{{ nothing.__class__ }}",
    "{{ nothing.__init__.__globals__ }}",
    "{{ (nothing | default(rows)).__class__ }}",
    "{{ none.__class__ }}",
    "{{ (1).__class__ }}",
    "{{ 1.0.real }}",
    "{% set x %}a{% endset %}{{ x.__class__ }}",
    "{% autoescape true %}{% set x %}{{ topic }}{% endset %}{{ x.format }}{% endautoescape %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_nothing_outside_the_sandbox_can_be_reached(text):
    with pytest.raises((Failed, Refused)):
        compile_value(text).render(NAMES, limits=LIMITS)
    assert len(NAMES.lookup("rows")) == 2
    assert set(NAMES.lookup("rows")[0]) == {"name", "age", "tags"}


@pytest.mark.parametrize("inner", ["(", "[", "{'a': ", "not ", "- ", "f(", "a[", "a ~ (", "a + (", "a if (", "{{"])
@pytest.mark.parametrize("times", [80, 5_000, 100_000])
def test_deep_nesting_is_refused(inner, times):
    with pytest.raises(Refused):
        compile_value("{{ " + inner * times)
    closing = {"(": ")", "[": "]", "{'a': ": "}", "f(": ")", "a[": "]", "a ~ (": ")", "a + (": ")"}
    if inner in closing:
        with pytest.raises(Refused):
            compile_value("{{ " + inner * times + "1" + closing[inner] * times + " }}")


@pytest.mark.parametrize(
    "text",
    [
        "{{ a" + ".b" * 50_000 + " | upper }}",
        "{{ a" + " | upper" * 50_000 + " }}",
        "{{ a" + " + a" * 50_000 + " }}",
        "{{ a" + " and a" * 50_000 + " }}",
        "{{ " + "a, " * 50_000 + " }}",
        "{% if a %}" * 5_000 + "{% endif %}" * 5_000,
        "{% for i in a %}" * 30 + "{% endfor %}" * 30,
        "{% if a %}x" + "{% elif a %}x" * 20_000 + "{% endif %}",
        "{{ a | upper }}" * 50_000,
        "{{ a | upper }}" + " " * 1_000_001,
        "{{ " + "9" * 10_000 + " }}",
        "{{ 'a" * 100_000,
        "{#" * 100_000,
        "{% raw %}" * 50_000,
        "{{ a[" + "'b'][" * 1000 + "0]" + "]" * 1000,
    ],
    ids=range(15),
)
def test_huge_templates_are_refused_soon(text):
    began = time.monotonic()
    with pytest.raises(Refused):
        compile_value(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("depth", [5, 12, 15, 18, 25, 40, 58])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(a + ", ")"),
        ("[", "]"),
        ("m(", ")"),
        ("(a and ", ")"),
        ("(a ~ ", ")"),
        ("(b if a else ", ")"),
        ("{'k': ", "}"),
        ("x[", "]"),
    ],
)
def test_what_compiles_also_renders(before, after, depth):
    """Python code is made late: nothing that was taken on may then turn out too deep for Python's compiler."""
    text = "{{ " + before * depth + "1" + after * depth + " }}"
    try:
        compiled = compile_value(text)
    except Refused as refused:
        compiled = refused
    if depth <= 12:
        assert not isinstance(compiled, Refused)
    if isinstance(compiled, Refused):
        assert "deep" in compiled.message
        return
    assert isinstance(compiled, Jinja)
    assert compiled.compiled() is compiled.compiled()


def test_loops_and_conditions_as_deep_as_allowed_work():
    text = "{% for i in range(1) %}{% if true %}" * 10 + "x" + "{% endif %}{% endfor %}" * 10
    assert compile_value(text).render(Variables()) == "x"


def test_values_nested_too_deeply_are_refused():
    value = "{{ a }}"
    for _ in range(1000):
        value = [value]
    with pytest.raises(Refused, match="deep"):
        compile_value(value)


def test_a_deep_stack_around_makes_no_difference():
    def deeper(levels):
        if levels:
            return deeper(levels - 1)
        with pytest.raises(Refused):
            compile_value("{{ " + "(" * 5000)
        return compile_expression("a + 1").render(Variables(a=1))

    assert deeper(sys.getrecursionlimit() // 2) == 2


def test_a_text_of_parts_is_capped_and_a_passed_value_is_not():
    names = Variables(x="y" * 60_000)
    assert len(compile_value("{{ x }}").render(names, limits=Limits(1000, 1.0))) == 60_000
    with pytest.raises(Failed, match="template_max_chars"):
        compile_value("{{ x }}{{ x }}").render(names, limits=LIMITS)
    with pytest.raises(Failed, match="template_max_chars"):
        compile_value("{% if x %}{{ x }}{{ x }}{% endif %}").render(names, limits=LIMITS)


def test_a_shared_structure_is_measured_before_it_is_printed():
    shared = [1]
    for _ in range(100):
        shared = [shared, shared]
    for text in ("x {{ s }}", "{{ [s] }}", "{{ s | tojson }}", "{{ s ~ '' }}", "{{ {'a': s} }}"):
        with pytest.raises(Failed, match=r"larger|deep"):
            compile_value(text).render(Variables(s=shared), limits=LIMITS)


def test_what_fails_leaves_no_memory_behind():
    compiled = compile_value("{% set a = 'ab' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}")
    tracemalloc.start()
    try:
        for _ in range(20):
            with pytest.raises(Failed):
                compiled.render(NAMES, limits=LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_threads_may_render_at_the_same_time():
    compiled = compile_value("{% for i in range(200) %}{{ [i, x] }}{% endfor %}")
    expected = {n: compiled.render(Variables(x=n)) for n in range(4)}
    wrong = []

    def work(n):
        wrong.extend(n for _ in range(20) if compiled.render(Variables(x=n)) != expected[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_most_templates_are_compiled_and_filled_in_fast():
    """No jinja2 for plain references: its parser alone takes some fifty times as long."""
    began = time.process_time()
    compiled = [compile_value(f"About {{{{ inputs.topic }}}}: {{{{ steps.s{n}.text }}}}") for n in range(10_000)]
    assert time.process_time() - began < 1.5
    assert all(type(one).__name__ == "Text" for one in compiled)
    assert isinstance(compiled[0], Compiled)
