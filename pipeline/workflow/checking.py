"""All that is wrong with a workflow, before anything is spent: `check`, and with its plan `examine`."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from pipeline.workflow.bundling import bundle, definition_of, planned, resolve
from pipeline.workflow.checks.catalogued import Catalogued
from pipeline.workflow.checks.certain import Types
from pipeline.workflow.checks.constants import wrong_constants, wrong_types
from pipeline.workflow.checks.given import Given
from pipeline.workflow.checks.rules import broken_rules
from pipeline.workflow.definition import Definition, LlmStep, TransformStep
from pipeline.workflow.errors import Fault
from pipeline.workflow.faults import Text, faults_of, in_order
from pipeline.workflow.gaps import Gaps
from pipeline.workflow.json_schema import SchemaRefused, compile_schema
from pipeline.workflow.patience import go_on
from pipeline.workflow.plan import Plan
from pipeline.workflow.planning import Draft, drafted
from pipeline.workflow.ports import Catalog, Kind
from pipeline.workflow.problems import Path, Problems
from pipeline.workflow.scopes import Scope
from pipeline.workflow.steps.transform import check_transform

__all__ = ["Examined", "bundle", "check", "examine", "planned", "resolve"]

_NONE: Mapping[str, Definition] = {}


class Readable(Text, Protocol):
    """A text that was read (`pipeline.workflow.source`). `definition` is None where that could not be."""

    @property
    def definition(self) -> Definition | None: ...

    @property
    def faults(self) -> Collection[Fault]: ...

    @property
    def gaps(self) -> Gaps: ...


class Examined(NamedTuple):
    """`plan` is None where there are faults."""

    faults: list[Fault]
    plan: Plan | None


def check(
    subject: Definition | Readable,
    *,
    others: Mapping[str, Definition] = _NONE,
    catalog: Catalog | None = None,
    kinds: Mapping[str, Kind] | Collection[str] = (),
) -> list[Fault]:
    """Every fault, in the text's order where there is one. `others` as `resolve` gives them; without a catalog routes
    and collections are left out; `kinds` are the custom types, whose options are checked where they come with a
    schema. Raises nothing."""
    return examine(subject, others=others, catalog=catalog, kinds=kinds).faults


def examine(
    subject: Definition | Readable,
    *,
    others: Mapping[str, Definition] = _NONE,
    catalog: Catalog | None = None,
    kinds: Mapping[str, Kind] | Collection[str] = (),
) -> Examined:
    """As `check`, with the plan that was made on the way."""
    gaps: Gaps | None = None
    if isinstance(subject, Definition):
        definition, text, before = subject, None, []
    else:
        if subject.definition is None:
            return Examined(in_order(subject.faults), None)
        definition, text, before, gaps = subject.definition, subject, list(subject.faults), subject.gaps
    draft = drafted(definition, others, kinds, gaps=gaps)
    _Checks(draft, catalog, kinds).run()
    found = faults_of(draft.problems, definition, text)
    faults = _together(before, found) if before else found
    return Examined(faults, None if faults else draft.plan)


def _together(read: list[Fault], found: list[Fault]) -> list[Fault]:
    """What reading has found already is not said again."""
    known = {(fault.line, fault.column, fault.where) for fault in read}
    return in_order([*read, *(fault for fault in found if (fault.line, fault.column, fault.where) not in known)])


class _Checks:
    """Goes through the steps of a draft."""

    def __init__(
        self,
        draft: Draft,
        catalog: Catalog | None,
        kinds: Mapping[str, Kind] | Collection[str],
    ) -> None:
        self._draft = draft
        self._problems: Problems = draft.problems
        self._catalogued = Catalogued(catalog, draft.problems)
        self._given = Given(draft.plans, kinds, draft.problems)

    def run(self) -> None:
        definition = self._draft.definition
        self._given.declared(definition)
        self._scope(self._draft.root)
        self._keeps(definition)

    def _keeps(self, definition: Definition) -> None:
        """A journal has definitions as JSON, and they must come out of it as they went in."""
        try:
            kept = definition_of(msgspec.json.encode(definition)) == definition
        except (OverflowError, TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            self._problems.add((), f"holds something that JSON cannot hold: {error}")
        else:
            if not kept:
                hint = "a number that is none (NaN) or infinite, or a key that is no text"
                self._problems.add((), "holds something that JSON cannot hold", hint)

    def _scope(self, scope: Scope) -> None:
        types = Types(scope, self._draft.inputs)
        for index, step in enumerate(scope.steps):
            self._step(types, (*scope.path, index), step, self._draft.values[(*scope.path, index)])
        for child in scope.children.values():
            self._scope(child)

    def _step(self, types: Types, path: Path, step: Any, values: Mapping[str, Any]) -> None:
        go_on()
        add = self._problems.add
        whole = not self._problems.gaps.is_partial(path)
        for broken in broken_rules(step) if whole else ():
            add((*path, *broken.path), broken.message, broken.hint)
        if whole or not isinstance(step, TransformStep):  # whose operation may be what is not known
            for field, message in (*wrong_constants(step, values), *wrong_types(step, values, types.of)):
                add((*path, *field), message)
        self._catalogued.step(path, step, values)
        self._given.step(path, step, values)
        if isinstance(step, TransformStep) and whole:
            self._transform(path, step)
        elif isinstance(step, LlmStep) and step.output_schema is not None:
            self._schema((*path, "output_schema"), step.output_schema)

    def _transform(self, path: Path, step: TransformStep) -> None:
        try:
            found = check_transform(step)
        except Exception as error:  # noqa: BLE001 - parsers of patterns and paths may fail in any way on what strangers write
            found = [("", f"cannot be read: {type(error).__name__}: {error}")]
        for name, message in found:
            self._problems.add((*path, name) if name else path, message)

    def _schema(self, path: Path, schema: Any) -> None:
        try:
            compile_schema(schema)
        except SchemaRefused as refused:
            self._problems.add((*path, *refused.path), refused.message)
