"""What the names in values and expressions lead to, and which steps must therefore have ended before.

Flat names: variables of the step around, then output names, then step ids, then outwards the same again, then inputs.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from pipeline.workflow.definition import CustomStep, LlmStep
from pipeline.workflow.fields import Field
from pipeline.workflow.hints import Hints
from pipeline.workflow.problems import Path, Problems
from pipeline.workflow.scopes import ROOTS, Scope, has_field, inner_names, local_of, type_of
from pipeline.workflow.signature import Declared
from pipeline.workflow.templates import Compiled

Reference = tuple[str, ...]
_SCALARS = {"string": "a text", "number": "a number", "integer": "a number", "boolean": "true or false"}
_MINUS = "- is a minus in expressions"
_OUTSIDE = "not known outside of the {{#each}}, which is where ../ leads"
_PARTS = 1000  # of a value
_SEARCHED = 100_000  # characters of a text


class Reader(NamedTuple):
    """Who reads: step number `step` of `scope`, or with None whoever the scope's results are for. `path` of the field,
    `text` what it says."""

    scope: Scope
    step: int | None
    path: Path
    text: Any
    local: frozenset[str] = frozenset()
    certain: bool = False  # what it needs is declared besides, or everything has ended
    quiet: bool = False  # it does without what is not there


class References:
    """Resolves all references of one definition, draws the edges of its scopes, and notes what leads nowhere."""

    def __init__(self, root: Scope, inputs: Declared, problems: Problems) -> None:
        self._inputs = inputs
        self._problems = problems
        self._hints = Hints(root, inputs, problems)

    def read(self, compiled: Compiled, reader: Reader) -> None:
        self._read(compiled.references, reader)
        if compiled.optional:
            self._read(compiled.optional, reader._replace(quiet=True))

    def _read(self, references: Collection[Reference], reader: Reader) -> None:
        for reference in references:
            head = reference[0]
            if head in reader.local:
                continue
            if head == "steps":
                self._step(reference, reader)
            elif head in {"inputs", "input"}:
                self._input(reference, reader)
            elif head == "outputs":
                self._output(reference, reader)
            else:
                self._flat(reference, reader)

    def depends(self, scope: Scope, index: int) -> None:
        """The step's `depends_on`."""
        step = scope.steps[index]
        for number, name in enumerate(step.depends_on):
            path = (*scope.path, index, "depends_on", number)
            found = self._find(scope, name)
            if found is None and not self._problems.gaps.hides(name):
                self._problems.add(path, f"there is no step {name!r}", self._hints.of_id(scope, name))
            elif found is not None:
                self._need(Reader(scope, index, path, name), *found, name)

    # The four kinds of names.

    def _step(self, reference: Reference, reader: Reader) -> None:
        if len(reference) == 1:
            self._any_step(reference, reader)
            return
        found = self._find(reader.scope, reference[1])
        if found is None and (meant := _with_minus(reader, reference[1], first=True)):
            self._wrong(reader, (*reference[:1], meant), _MINUS, lambda: f'write steps["{meant}"]')
            return
        if found is None:
            self._wrong(
                reader,
                reference,
                f"there is no step {reference[1]!r}",
                lambda: self._hints.of_id(reader.scope, reference[1], "steps."),
            )
            return
        if self._need(reader, *found, ".".join(reference)) and len(reference) > 2:
            self._field(reference, reader, *found)

    def _any_step(self, reference: Reference, reader: Reader) -> None:
        """`steps` as a whole, or `steps[a variable]`."""
        if not reader.certain:
            self._wrong(
                reader,
                reference,
                "which step this means is not known before the run",
                lambda: f"write {reference[0]}.<id>, or name the steps under depends_on",
            )

    def _input(self, reference: Reference, reader: Reader) -> None:
        if len(reference) > 2 and (kind := self._scalar(reference[1])) and not reference[2].lstrip("-").isdigit():
            name = f"{reference[0]}.{reference[1]}"
            self._wrong(reader, reference, f"{name} is {kind}, which has no fields", lambda: "")
            return
        if len(reference) == 1 or reference[1] in self._inputs.names or self._inputs.others:
            return
        name = reference[1]
        self._wrong(
            reader,
            reference,
            f"the input {name!r} is not declared",
            lambda: self._hints.of_input(name, f"{reference[0]}."),
        )

    def _scalar(self, name: str) -> str:
        """What an input is that can have no fields; else empty."""
        schema = self._inputs.names.get(name)
        kind = schema.get("type") if isinstance(schema, dict) else None
        return _SCALARS.get(kind, "") if isinstance(kind, str) else ""

    def _output(self, reference: Reference, reader: Reader) -> None:
        if len(reference) == 1:
            self._any_step(reference, reader)
            return
        name = reference[1]
        found = self._find(reader.scope, name) or self._find_name(reader.scope, name)
        if found is not None:
            self._need(reader, *found, ".".join(reference))
            return
        self._wrong(
            reader,
            reference,
            f"no step has the id or the output name {name!r}",
            lambda: self._hints.of_name(reader.scope, name, "outputs."),
        )

    def _flat(self, reference: Reference, reader: Reader) -> None:
        name = reference[0]
        for scope in reader.scope.outward():
            if name in scope.local:
                return
            if name in scope.names:
                if self._need(reader, scope, scope.names[name].node, name):
                    self._flat_field(reference, reader, scope)
                return
        if name in self._inputs.names:
            return
        if meant := _with_minus(reader, name, first=True):
            self._wrong(reader, (meant,), _MINUS, lambda: f'write steps["{meant}"].value')
        elif isinstance(reader.text, str) and f"../{name}" in reader.text:
            self._wrong(reader, (f"../{name}",), _OUTSIDE, lambda: self._hints.of_name(reader.scope, name, "../"))
        elif not _with_minus(reader, name, first=False):  # what follows the minus
            self._wrong(reader, reference, "not known here", lambda: self._hints.of_name(reader.scope, name))

    # Where they lead.

    def _find(self, scope: Scope, name: str) -> tuple[Scope, int] | None:
        for outer in scope.outward():
            if name in outer.ids:
                return outer, outer.ids[name]
        return None

    def _find_name(self, scope: Scope, name: str) -> tuple[Scope, int] | None:
        for outer in scope.outward():
            if name in outer.names:
                return outer, outer.names[name].node
        return None

    def _need(self, reader: Reader, scope: Scope, target: int, name: str) -> bool:
        """Draws the edge: from the reader, or from what encloses the reader beside the target."""
        here, index = reader.scope, reader.step
        while here is not scope:
            assert here.parent is not None  # noqa: S101 - the target was found on the way outwards
            here, index = here.parent, here.owner
        if index is None:
            return True
        if index != target:
            here.edges[index].add(target)
            return True
        if reader.quiet:
            return False
        own = scope is reader.scope and reader.step == target
        what = "the step itself" if own else f"the step {scope.steps[target].id!r} around this one"
        hint = self._hints.of_own(reader.scope, name) if own else ""
        self._add(reader, name, f"{name}: this is {what}, which has not ended when it is needed", hint)
        return False

    def _field(self, reference: Reference, reader: Reader, scope: Scope, target: int) -> None:
        step, name = scope.steps[target], reference[2]
        if isinstance(step, CustomStep) or has_field(step, name) or name in inner_names(scope, target):
            return
        self._wrong(
            reader,
            reference,
            f"a step of type {type_of(step)} has no field {name!r}",
            lambda: self._hints.of_field(scope, target, name),
        )

    def _flat_field(self, reference: Reference, reader: Reader, scope: Scope) -> None:
        """`draft.text` where `draft` is a step whose value is a text: certain to fail."""
        named = scope.names[reference[0]]
        step = scope.steps[named.node]
        if len(reference) == 1 or named.field or named.inner or not isinstance(step, LlmStep):
            return
        if step.output_schema is None and has_field(step, reference[1]):
            self._wrong(
                reader,
                reference,
                f"{reference[0]} is the step's text, which has no fields",
                lambda: f"write steps.{step.id}.{reference[1]}",
            )

    # Saying so.

    def _wrong(self, reader: Reader, reference: Reference, message: str, hint: Callable[[], str]) -> None:
        if reader.quiet or self._is_lost(reference):
            return
        if self._problems.full:
            self._problems.add(reader.path, message)
        else:
            shown = ".".join(reference)
            self._add(reader, shown, f"{shown}: {message}", hint())

    def _is_lost(self, reference: Reference) -> bool:
        """Whether it may lead to something that could not be read."""
        gaps = self._problems.gaps
        if not gaps:
            return False
        if reference[0] in {"inputs", "input"}:
            return gaps.hides_input(reference[1])
        flat = reference[0] not in ROOTS
        return any(gaps.hides(part) for part in reference[:3]) or (flat and gaps.hides_input(reference[0]))

    def _add(self, reader: Reader, shown: str, message: str, hint: str) -> None:
        """With where the text has it, as far as can be told."""
        path, text, wanted = reader.path, reader.text, shown
        if not isinstance(text, str):
            inner, text = next(
                (found for found in (_part(text, shown), _part(text, shown.rpartition(".")[2])) if found[0]), ((), text)
            )
            path = (*path, *inner)
        line = 0
        if isinstance(text, str) and len(text) <= _SEARCHED and "\n" in text:
            wanted = shown if shown in text else shown.rpartition(".")[2]
            line = max(text.count("\n", 0, text.find(wanted)), 0) if wanted in text else 0
        self._problems.add(path, message, hint, line, wanted)


def _with_minus(reader: Reader, name: str, *, first: bool) -> str:
    """The id with a `-` that the reader's text has, and of which this is the first part or a later one; else empty."""
    if not isinstance(reader.text, str) or "-" not in reader.text or len(reader.text) > _SEARCHED:
        return ""
    for scope in reader.scope.outward():
        for one in scope.ids:
            parts = one.split("-")
            fits = name == parts[0] if first else name in parts[1:]
            if len(parts) > 1 and fits and re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", reader.text):
                return one
    return ""


def _part(value: Any, words: str) -> tuple[Path, Any]:
    """The text in a value that holds the words, and the way to it."""
    waiting: list[tuple[Path, Any]] = [((), value)]
    for path, one in waiting:  # grows
        if isinstance(one, str) and words in one:
            return path, one
        if isinstance(one, dict | list) and len(waiting) < _PARTS:
            items = one.items() if isinstance(one, dict) else enumerate(one)
            waiting += [((*path, key), inner) for key, inner in items]
    return (), value


def reader_of(scope: Scope, index: int, field: Field) -> Reader:
    step = scope.steps[index]
    path = (*scope.path, index, *field.path)
    certain = bool(step.depends_on)
    if not field.inner:
        return Reader(scope, index, path, field.value, field.local, certain)
    child = scope.children.get(index)
    if child is None:
        return Reader(scope, index, path, field.value, local_of(step), certain)
    return Reader(child, None, path, field.value, certain=True)
