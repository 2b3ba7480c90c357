"""Values with templates in them: compiled once, filled in for each step.

Texts whose only templates are plain references (`{{ steps.draft.text }}`, `{{ items[0].name }}`) never meet jinja2:
that is what most are, and it is some fifty times as fast. The others run in `pipeline.workflow.template_sandbox`;
of expressions that have the same shape (`pipeline.workflow.template_shapes`), one is compiled.

A text that is one whole `{{ expression }}`, perhaps with space around it, keeps the expression's type. In texts, null
is printed as nothing, true and false in JSON's way, and lists and objects as JSON.
"""

import re
from functools import lru_cache
from typing import Any

from jinja2 import nodes

from pipeline.stages.sandbox import UNPARSABLE, refusal
from pipeline.stages.sandbox_tree import refuse
from pipeline.workflow.handlebars import NotHandlebars, is_handlebars, translate
from pipeline.workflow.template_forms import SANDBOX, Compiled, Composite, Failed, Jinja, Limits, Reference, Text
from pipeline.workflow.template_paths import NOT_VARIABLES, PATH, Path, keys_of
from pipeline.workflow.template_references import Reading
from pipeline.workflow.template_shapes import VARIABLE, shaped

__all__ = ["Compiled", "Failed", "Limits", "Refused", "compile_expression", "compile_value"]

MAX_TEXT = 1_000_000  # characters of one text with templates
MAX_NESTING = 64  # of lists and objects in a value
_SHALLOW = 16  # syntax trees no deeper than this are known to compile
_OPEN = re.compile(r"\{[{%#]")
_PART = re.compile(r"\{\{[ \t\n]*" + PATH + r"[ \t\n]*\}\}|" + _OPEN.pattern)
_BARE = re.compile(PATH)
_SHAPES = 2048  # compiled ones that are kept


class Refused(Exception):
    """A template that cannot be compiled. `line` (from 1) is in its own text; `where` the dotted place inside the
    value."""

    def __init__(self, message: str, line: int = 1, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.where = where


def compile_value(value: Any) -> Any:
    """A value as it is declared: a `Compiled` where any text in it is a template, else the value itself. A text that is
    one whole `{{ expression }}` keeps the expression's type. Raises `Refused`."""
    return _compile(value, 0)


def compile_expression(text: str) -> Compiled:
    """`a == 'b'` or `{{ a == 'b' }}`. Raises `Refused`."""
    stripped = text.strip()
    bare = _BARE.fullmatch(stripped)
    if bare is not None and bare[1] not in NOT_VARIABLES:
        return Reference(bare[1], keys_of(bare[2]))
    if not stripped:
        raise Refused("an expression is needed, and there is none")
    compiled = _text(stripped if stripped.startswith("{{") else "{{ " + stripped + " }}", expression=True)
    if not isinstance(compiled, Compiled):
        raise Refused("an expression is needed, and this is plain text")
    return compiled


def _compile(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return value
    if depth > MAX_NESTING:
        raise Refused(f"lists and objects more than {MAX_NESTING} deep")
    made: dict[Any, Any] = {}
    for key, item in items:
        try:
            made[key] = _compile(item, depth + 1)
        except Refused as refused:
            refused.where = f"{key}.{refused.where}".rstrip(".")
            raise
    inside = [one for one in made.values() if isinstance(one, Compiled)]
    if not inside:
        return value
    return Composite(made if isinstance(value, dict) else list(made.values()), inside)


def _text(text: str, *, expression: bool = False) -> Any:
    if "{" not in text or _OPEN.search(text) is None:
        return text
    simple = _simple(text, expression=expression)
    if simple is None and len(text) <= MAX_TEXT:
        simple = shaped(text, _shape, expression=expression)
    return simple or _jinja(text, expression=expression)


def _simple(text: str, *, expression: bool) -> Compiled | None:
    """None where there is more than references."""
    if "\r" in text:  # jinja2 makes one newline of all kinds
        return None
    parts: list[str | Path] = []
    at = 0
    for found in _PART.finditer(text):
        name, start = found[1], found.start()
        if name is None or name in NOT_VARIABLES:
            return None
        if start > at:
            parts.append(text[at:start])
        parts.append((name, keys_of(found[2])))
        at = found.end()
    if at < len(text):
        parts.append(text[at:])
    named = [one for one in parts if not isinstance(one, str)]
    if len(named) == 1 and not any(isinstance(one, str) and one.strip() for one in parts):
        return Reference(*named[0])
    return None if expression else Text(parts)


@lru_cache(_SHAPES)
def _shape(text: str) -> Jinja | None:
    try:
        compiled = _jinja(text, expression=True)
    except Refused:
        return None
    # A word of the language that stands where it has no meaning is the name of a variable: `{{ else }}`.
    names = (path[0] for path in (*compiled.references, *compiled.optional))
    return compiled if all(VARIABLE.fullmatch(name) for name in names) else None


def _jinja(text: str, *, expression: bool) -> Jinja:
    if len(text) > MAX_TEXT:
        raise Refused(f"a text with templates of more than {MAX_TEXT} characters")
    try:
        tree = _Tree(text)
        if expression and not tree.whole:
            raise Refused("this is not one expression")
        reading = tree.reading
        compiled = Jinja(lambda: _Tree(text).runnable, reading.needed, reading.optional, whole=tree.whole)
        if tree.depth > _SHALLOW:
            compiled.compiled()
    except NotHandlebars as error:
        raise Refused(error.message, error.line) from error
    except UNPARSABLE as error:
        refused = refusal(error)
        raise Refused(refused.message, refused.line) from error
    return compiled


class _Tree:
    """The syntax tree of a text. `whole`: it is one expression; `runnable` gives that the name `result`."""

    def __init__(self, text: str) -> None:
        tree = SANDBOX.parsed(translate(text) if is_handlebars(text) else text)
        self.depth = refuse(tree, SANDBOX.known_filters, SANDBOX.known_tests, built=True)
        self.reading = Reading(tree)
        self._tree = tree
        self._expression = _whole(tree)

    @property
    def whole(self) -> bool:
        return self._expression is not None

    @property
    def runnable(self) -> nodes.Template:
        if self._expression is None:
            return self._tree
        result = nodes.Name("result", "store", lineno=1)
        return nodes.Template([nodes.Assign(result, self._expression, lineno=1)], lineno=1)


def _whole(tree: nodes.Template) -> nodes.Expr | None:
    """The expression that is all there is, besides space."""
    if len(tree.body) != 1 or not isinstance(output := tree.body[0], nodes.Output):
        return None
    said = [one for one in output.nodes if not (isinstance(one, nodes.TemplateData) and not one.data.strip())]
    return said[0] if len(said) == 1 and not isinstance(said[0], nodes.TemplateData) else None
