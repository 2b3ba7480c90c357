import time

import pytest

from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate, TemplateFailed, TemplateRefused
from workers.base import Passage

PASSAGES = [Passage("Queues are bounded.", "docs/queues.md", 3, 0.9, "Queues > Limits"), Passage("b", "b.md", 0, 0.1)]


def render(source: str, max_chars: int = 100_000) -> str:
    template = PromptTemplate(source, max_chars=max_chars, timeout=0.1)
    return template.render(system="SYSTEM", question="why?", passages=PASSAGES)


def test_the_built_in_template_numbers_its_passages():
    text = render(DEFAULT_TEMPLATE)
    assert text.startswith("SYSTEM\n")
    assert "[1] docs/queues.md, Queues > Limits\n\nQueues are bounded." in text
    assert "[2] b.md\n" in text


def test_the_built_in_template_says_when_there_is_nothing():
    template = PromptTemplate(DEFAULT_TEMPLATE, max_chars=10_000, timeout=0.1)
    assert "No passage" in template.render(system="", question="q", passages=[])
    assert template.render(system="S", question="q", passages=[], searched=False).strip() == "S"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% filter upper %}{% for i in range(9999) %}{% for j in range(999) %}x{% endfor %}{% endfor %}{% endfilter %}",
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 99999999999 * 99999999999 }}",
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaa') }}",
        "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('aaaa') }}",
        "{% macro f(x) %}{% set y %}{{ x }}{{ x }}{% endset %}{{ f(y) }}{% endmacro %}{{ f('aaaa') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ 'a'['format'](1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ range(100000) | join('separator') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ passages.append(1) }}",
        "{{ passages[0].nope }}",
        "{{ lipsum(1000) }}",
        "{% set ns = namespace(a=1) %}{{ ns.a }}",
        "{% set x = range(99999) | list %}" + "{{ x | sort | reverse | list | length }}" * 200,
        "{{ passages }}",
        "{{ passages | join }}",
        "{% for p in passages recursive %}{{ loop(passages) }}{% endfor %}",
    ],
)
def test_what_takes_too_much_or_reaches_out_fails(source: str):
    began = time.monotonic()
    with pytest.raises(TemplateFailed):
        render(source)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("one\n{{ x", 2),
        ("{% include 'x' %}", 1),
        ("{% import 'x' as y %}", 1),
        ("\n\n{% set _meter = 1 %}", 3),
        ("{{ system | indent(1000000000) }}", 1),
        ("{% endfor %}", 1),
        ("{% set a = ['x'] %}\n{% set a = [a, a, a, a, a, a, a, a] %}", 2),
        ("{{ [1] | tojson(indent=1000000000) }}", 1),
        ("{{ 1 | round(3000000, 'ceil') }}", 1),
        ("{{ [passages, passages] | sum(start=[]) }}", 1),
    ],
)
def test_what_the_sandbox_does_not_offer_is_refused_with_its_line(source: str, line: int):
    with pytest.raises(TemplateRefused) as caught:
        render(source)
    assert caught.value.line == line


def test_a_result_over_the_limit_fails():
    with pytest.raises(TemplateFailed, match="template_max_chars"):
        render("x" * 101, max_chars=100)


def test_text_from_documents_is_never_a_template():
    template = PromptTemplate("{{ passages[0].text }}", max_chars=1000, timeout=0.1)
    hostile = Passage("{{ 10 ** 10 }}{% for %}", "s", 0, 1.0)
    assert template.render(system="", question="", passages=[hostile]) == "{{ 10 ** 10 }}{% for %}"
