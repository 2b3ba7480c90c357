"""Values with templates in them: compiled once, filled in for each step.

Texts whose only templates are plain references (`{{ steps.draft.text }}`, `{{ items[0].name }}`) never meet jinja2:
that is what most are, and it is some fifty times as fast. The others run in `pipeline.workflow.template_sandbox`.

A text that is one whole `{{ expression }}`, perhaps with space around it, keeps the expression's type. In texts, null
is printed as nothing, true and false in JSON's way, and lists and objects as JSON.
"""

import re
from typing import Any

from jinja2 import nodes

from pipeline.stages.sandbox import UNPARSABLE, refusal
from pipeline.stages.sandbox_tree import refuse
from pipeline.workflow.handlebars import NotHandlebars, is_handlebars, translate
from pipeline.workflow.template_forms import SANDBOX, Compiled, Composite, Failed, Jinja, Key, Limits, Reference, Text
from pipeline.workflow.template_references import Reading

__all__ = ["Compiled", "Failed", "Limits", "Refused", "compile_expression", "compile_value"]

MAX_TEXT = 1_000_000  # characters of one text with templates
MAX_NESTING = 64  # of lists and objects in a value
_SHALLOW = 16  # syntax trees no deeper than this are known to compile
_OPEN = re.compile(r"\{[{%#]")
_PATH = r"([A-Za-z][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*|\[-?[0-9]{1,9}\]|\[\"[^\"\\\n]*\"\]|\['[^'\\\n]*'\])*)"
_REFERENCE = re.compile(r"\{\{[ \t\n]*" + _PATH + r"[ \t\n]*\}\}")
_BARE = re.compile(_PATH)
_KEYS = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(-?[0-9]+)\]|\[\"([^\"]*)\"\]|\['([^']*)'\]")
# Names that mean something to jinja2, or to the sandbox.
_NOT_VARIABLES = frozenset(
    "true false none True False None not and or in is if else elif self range loop recursive import".split()
)


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
    if bare is not None and bare[1] not in _NOT_VARIABLES:
        return Reference(bare[1], _keys_of(bare[2]))
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
    return _simple(text, expression=expression) or _jinja(text, expression=expression)


def _simple(text: str, *, expression: bool) -> Compiled | None:
    """None where it takes jinja2."""
    if "\r" in text:  # jinja2 makes one newline of all kinds
        return None
    parts: list[str | tuple[str, tuple[Key, ...]]] = []
    at = 0
    while (opened := _OPEN.search(text, at)) is not None:
        found = _REFERENCE.match(text, opened.start())
        if found is None or found[1] in _NOT_VARIABLES:
            return None
        if opened.start() > at:
            parts.append(text[at : opened.start()])
        parts.append((found[1], _keys_of(found[2])))
        at = found.end()
    if at < len(text):
        parts.append(text[at:])
    named = [one for one in parts if not isinstance(one, str)]
    if len(named) == 1 and not any(isinstance(one, str) and one.strip() for one in parts):
        return Reference(*named[0])
    return None if expression else Text(parts)


def _keys_of(text: str) -> tuple[Key, ...]:
    if not text:
        return ()
    return tuple(
        int(found[2]) if found[2] is not None else next(key for key in found.group(1, 3, 4) if key is not None)
        for found in _KEYS.finditer(text)
    )


def _jinja(text: str, *, expression: bool) -> Compiled:
    if len(text) > MAX_TEXT:
        raise Refused(f"a text with templates of more than {MAX_TEXT} characters")
    try:
        tree = SANDBOX.parsed(translate(text) if is_handlebars(text) else text)
        depth = refuse(tree, SANDBOX.known_filters, SANDBOX.known_tests, built=True)
        reading = Reading(tree)
        whole = _whole(tree)
        if whole is not None:
            result = nodes.Name("result", "store", lineno=1)
            tree = nodes.Template([nodes.Assign(result, whole, lineno=1)], lineno=1)
        elif expression:
            raise Refused("this is not one expression")
        compiled = Jinja(tree, reading.needed, reading.optional, whole=whole is not None)
        if depth > _SHALLOW:
            compiled.compiled()
    except NotHandlebars as error:
        raise Refused(error.message, error.line) from error
    except UNPARSABLE as error:
        refused = refusal(error)
        raise Refused(refused.message, refused.line) from error
    return compiled


def _whole(tree: nodes.Template) -> nodes.Expr | None:
    """The expression that is all there is, besides space."""
    if len(tree.body) != 1 or not isinstance(output := tree.body[0], nodes.Output):
        return None
    said = [one for one in output.nodes if not (isinstance(one, nodes.TemplateData) and not one.data.strip())]
    return said[0] if len(said) == 1 and not isinstance(said[0], nodes.TemplateData) else None
