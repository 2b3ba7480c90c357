"""Prompt templates: jinja2 in a sandbox, with the limits on size and time that jinja2 itself does not have.

Whatever grows text or takes time in a template is counted while it renders: every printed expression (through
`finalize`), every loop iteration and macro call (through a print of the meter inserted into each body), every
concatenation. Filters and methods that make a large text out of a small one in a single step are not offered.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    TemplateSyntaxError,
    Undefined,
    nodes,
    pass_context,
)
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from workers.base import Passage

_FILTERS = frozenset(
    "abs capitalize count d default first float int items join last length list lower map max min "
    "reject rejectattr reverse select selectattr sort title trim truncate unique upper wordcount".split()
)
_METHODS = frozenset(
    "strip lstrip rstrip split lower upper title capitalize startswith endswith items keys values get".split()
)
_MAX_NUMBER = 10**12

DEFAULT_TEMPLATE = """\
{% if system %}{{ system }}

{% endif %}{% if passages %}Answer from the numbered passages below and from nothing else. After each statement put the
number of the passage it comes from in square brackets, like [1]. If the passages do not answer the question, say so.
{% for passage in passages %}
[{{ passage.number }}] {{ passage.source }}{% if passage.title %}, {{ passage.title }}{% endif %}

{{ passage.text }}
{% endfor %}{% elif searched %}No passage of the documents fits the question. Say that the documents do not answer it.
{% endif %}"""


class TemplateRefused(Exception):
    """The template cannot be used: a syntax error, or something that the sandbox does not offer. `line` counts from
    1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class TemplateFailed(Exception):
    """Rendering failed or went over a limit."""


class PromptTemplate:
    """A route's template, compiled once and rendered for each request.

    Variables: `system` (text), `question` (text), `passages` (each with number, text, source, title, score). Raises
    `TemplateRefused` on construction and `TemplateFailed` on rendering.
    """

    def __init__(self, source: str, *, max_chars: int, timeout: float) -> None:
        self.source = source
        self.max_chars = max_chars
        self.timeout = timeout
        self._environment = _Environment(max_chars, timeout)
        try:
            self._template: Template = self._environment.from_string(source)
        except TemplateError as error:
            raise TemplateRefused(error.message or type(error).__name__, getattr(error, "lineno", 1) or 1) from error

    def render(self, *, system: str, question: str, passages: Sequence[Passage], searched: bool = True) -> str:
        numbered = [
            {"number": n, "text": p.text, "source": p.source, "title": p.title, "score": p.score}
            for n, p in enumerate(passages, 1)
        ]
        meter = _Meter(self._environment.max_chars, self._environment.timeout)
        try:
            text = self._template.render(
                system=system,
                question=question,
                passages=numbered,
                searched=searched,
                _meter=meter,
                _concat=meter.concat,
            )
        except TemplateFailed:
            raise
        except Exception as error:
            raise TemplateFailed(f"the template failed: {type(error).__name__}: {error}") from error
        meter.size_of(text)
        return text


class _Meter:
    """What one rendering has used."""

    __slots__ = ("_chars", "_deadline", "_max")

    def __init__(self, max_chars: int, timeout: float) -> None:
        self._max = max_chars
        self._chars = 0
        self._deadline = time.monotonic() + timeout

    def step(self) -> None:
        if time.monotonic() > self._deadline:
            raise TemplateFailed("the template took longer than template_timeout_ms")
        self._chars += 1  # a loop over nothing but text counts too
        self._check(self._chars)

    def printed(self, text: str) -> None:
        self._chars += len(text)
        self._check(self._chars)
        if time.monotonic() > self._deadline:
            raise TemplateFailed("the template took longer than template_timeout_ms")

    def concat(self, *parts: Any) -> str:
        texts = [_text_of(part) for part in parts]
        self._check(sum(map(len, texts)))
        return "".join(texts)

    def size_of(self, text: str) -> None:
        self._check(len(text))

    def _check(self, chars: int) -> None:
        if chars > self._max:
            raise TemplateFailed(f"the template made more than template_max_chars ({self._max}) characters")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, max_chars: int, timeout: float) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,  # the output is a prompt, not HTML
            optimized=False,  # or constants would be computed, unmetered, while compiling
            finalize=_finalize,
            keep_trailing_newline=True,
        )
        self.max_chars = max_chars
        self.timeout = timeout
        self.filters = {name: f for name, f in self.filters.items() if name in _FILTERS}
        self.filters["join"] = self._join
        self.globals = {"range": self.globals["range"]}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _refuse(tree)
        for block in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            body: list[nodes.Node] = block.body  # type: ignore[attr-defined]  # all three have one
            line = block.lineno
            body.insert(0, nodes.Output([nodes.Name("_meter", "load", lineno=line)], lineno=line))
        _MeterConcatenation().visit(tree)
        tree.set_environment(self)
        return tree

    def wrap_str_format(self, value: Any) -> None:
        """No formatting either: a width is all it takes to make text of any size."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | list | dict | tuple) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            raise TemplateFailed("text cannot be formatted with % in a template")
        if operator == "**" and not (abs(left) <= 1000 and abs(right) <= 4):
            raise TemplateFailed("a power this large is not computed in a template")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TemplateFailed("only numbers can be multiplied in a template")
        if operator == "+" and isinstance(left, str | list | tuple) and len(left) + len(right) > self.max_chars:
            raise TemplateFailed(f"the template made more than template_max_chars ({self.max_chars}) characters")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int | float) and abs(result) > _MAX_NUMBER:
            raise TemplateFailed("a number this large is not computed in a template")
        return result

    def _join(self, value: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
        items = [_text_of(item[attribute] if attribute is not None else item) for item in value]
        if sum(map(len, items)) + len(separator) * len(items) > self.max_chars:
            raise TemplateFailed(f"the template made more than template_max_chars ({self.max_chars}) characters")
        return separator.join(items)


@pass_context
def _finalize(context: Context, value: Any) -> str:
    meter: _Meter = context["_meter"]
    if value is meter:
        meter.step()
        return ""
    text = _text_of(value)
    meter.printed(text)
    return text


def _text_of(value: Any) -> str:
    """A value as text. Not a list's: one that holds another several times is small, and its text need not be."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
    raise TemplateFailed(f"a {type(value).__name__} cannot be printed: name the part of it that is meant")


class _MeterConcatenation(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's naming
        self.generic_visit(node)
        return nodes.Call(
            nodes.Name("_concat", "load", lineno=node.lineno), node.nodes, [], None, None, lineno=node.lineno
        )


def _refuse(tree: nodes.Template) -> None:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        what = type(node).__name__.lower()
        raise TemplateSyntaxError(f"{what!r} is not offered: a template stands alone", node.lineno)
    for literal in tree.find_all((nodes.List, nodes.Tuple, nodes.Dict)):
        if getattr(literal, "ctx", "load") == "load" and next(literal.find_all(nodes.Name), None) is not None:
            raise TemplateSyntaxError("a list or dict of anything but constants is not offered", literal.lineno)
    for name in tree.find_all(nodes.Name):
        if name.name.startswith("_"):
            raise TemplateSyntaxError(f"the name {name.name!r} is reserved", name.lineno)
