"""Definitions made into plans: values compiled, dependencies inferred, order and reachability checked."""

from collections.abc import Collection, Mapping, Sequence
from time import perf_counter
from typing import Any

from pipeline.workflow.calls import Callees
from pipeline.workflow.definition import MAX_STEPS, BranchStep, CustomStep, Definition, WorkflowStep
from pipeline.workflow.errors import DefinitionRefused
from pipeline.workflow.faults import faults_of
from pipeline.workflow.fields import fields
from pipeline.workflow.flat import BUILT_IN
from pipeline.workflow.gaps import Gaps
from pipeline.workflow.graphs import cycles, ordered, reversed_edges
from pipeline.workflow.patience import go_on
from pipeline.workflow.plan import Gate, Graph, Node, Plan
from pipeline.workflow.problems import Path, Problems
from pipeline.workflow.reach import Reach
from pipeline.workflow.references import Reader, References, reader_of
from pipeline.workflow.scopes import Scope, survey
from pipeline.workflow.signature import declared_inputs
from pipeline.workflow.templates import Compiled, Failed, Limits, Refused, compile_expression, compile_value

_SHOWN = 12  # steps of a cycle
_FAULTS = 20  # of a called workflow
_CONSTANT = Limits(max_chars=10_000, timeout=0.1)
_AT_ONCE = 0.02  # seconds: a constant that takes longer is left alone
_SETTINGS = "template_"
_CONSTANTS = 1.0  # seconds for all constants of a definition
_NONE: Mapping[str, Definition] = {}


def plan(definition: Definition, others: Mapping[str, Definition] = _NONE, *, kinds: Collection[str] = ()) -> Plan:
    """`others` by the text of `WorkflowStep.workflow`, `kinds` the known custom types. Raises `DefinitionRefused` with
    every problem there is, those of called workflows among them."""
    return drafted(definition, others, kinds).made()


def drafted(
    definition: Definition,
    others: Mapping[str, Definition],
    kinds: Collection[str],
    *,
    reach: bool = True,
    gaps: Gaps | None = None,
) -> "Draft":
    """The draft of a workflow, after those of all that it calls. Without `reach` nobody asks whether all steps can
    run. `gaps` are the definition's."""
    plans: dict[str, Plan] = {}
    callees = Callees(definition, others)

    def take(text: str, called: Definition) -> None:
        draft = Draft(called, plans, callees.broken, kinds, reach=reach)
        if draft.plan is not None:
            plans[text] = draft.plan
        else:
            callees.broken[text] = draft.in_short(text)

    callees.each(take)
    return Draft(definition, plans, callees.broken, kinds, reach=reach, gaps=gaps)


class Draft:
    """Plans one definition. `plan` is None where there are problems. `plans` and `broken`: the workflows that it can
    call, and why it cannot call others. `values` has what was compiled, by the path of its step."""

    def __init__(
        self,
        definition: Definition,
        plans: Mapping[str, Plan],
        broken: Mapping[str, Sequence[str]],
        kinds: Collection[str],
        *,
        reach: bool = True,
        gaps: Gaps | None = None,
    ) -> None:
        self.definition = definition
        self._reach = reach
        self._constants = _CONSTANTS
        self.problems = Problems(gaps)
        self.plan: Plan | None = None
        self.values: dict[Path, dict[str, Compiled]] = {}
        self.plans = plans
        self._broken = broken
        self._kinds = kinds
        self._told: dict[str, None] = {}  # of those, what was told
        self._derived: set[str] = set()  # in these words
        self._truth: dict[Path, bool] = {}
        self._gates: dict[Path, dict[int, list[Gate]]] = {}
        self._compiled: dict[tuple[str, bool], Any] = {}
        self._draft()

    def made(self) -> Plan:
        """Raises `DefinitionRefused`."""
        if self.plan is None:
            raise DefinitionRefused(faults_of(self.problems, self.definition))
        return self.plan

    def in_short(self, text: str) -> list[str]:
        """What is wrong with it, and with what it calls, for those that call it as `text`. Only so much of it: else
        workflows that call broken ones twice, in layers, would have more faults than there is room for."""
        deeper = [message for one in self._told for message in self._broken[one]]
        own = [one for one in faults_of(self.problems, self.definition) if one.message not in self._derived]
        messages = [*dict.fromkeys(deeper), *(f"workflow {text}: {one.where}: {one.message}" for one in own)]
        more = len(messages) - _FAULTS
        return [*messages[:_FAULTS], f"workflow {text}: and {more} more problems"] if more > 0 else messages

    def _draft(self) -> None:
        root, self._steps = survey(self.definition.steps, self.problems)
        self.root = root
        self.inputs = declared_inputs(self.definition)
        self._references = References(root, self.inputs, self.problems)
        if not root.steps:
            self.problems.add(("steps",), "a workflow has at least one step")
        self._read(root)
        outputs = self._outputs(root)
        if self._steps > MAX_STEPS:
            self.problems.add(
                ("steps",), f"{self._steps} steps: at most {MAX_STEPS} are allowed, called workflows counted"
            )
        self._order(root)
        if not self.problems:
            self.plan = Plan(self.definition, self._graph(root), outputs, self._steps)

    # Values, and what they refer to.

    def _read(self, scope: Scope) -> None:
        gates = self._gates[scope.path] = {}
        for index, step in enumerate(scope.steps):
            path = (*scope.path, index)
            self.values[path] = self._fields(scope, index, step)
            if step.depends_on:
                self._references.depends(scope, index)
            if step.condition is False:
                self._truth[(*path, "condition")] = False
            if isinstance(step, BranchStep):
                self._branch(scope, index, step, gates)
            elif isinstance(step, WorkflowStep):
                self._call(step, path)
            elif isinstance(step, CustomStep) and step.type not in self._kinds:
                hint = self.problems.near(step.type, (*BUILT_IN, *self._kinds))
                self.problems.add((*path, "type"), f"unknown step type {step.type!r}", hint)
        for child in scope.children.values():
            self._read(child)

    def _fields(self, scope: Scope, index: int, step: Any) -> dict[str, Compiled]:
        values: dict[str, Compiled] = {}
        for field in fields(step):
            go_on()
            path = (*scope.path, index, *field.path)
            value = self._value(field.value, path, expression=field.expression)
            if isinstance(value, Compiled):
                values[field.key] = value
                self._references.read(value, reader_of(scope, index, field))
                if not (value.references or value.optional or field.local):
                    self._note_truth(path, value, keep=field.expression)
        return values

    def _value(self, value: Any, path: Path, *, expression: bool = False) -> Any:
        """Compiled where there is something to compile. The same text is compiled once."""
        key = (value, expression) if isinstance(value, str) else None
        if key is not None and key in self._compiled:
            return self._compiled[key]
        try:
            compiled = compile_expression(value) if expression else compile_value(value)
        except Refused as refused:
            self.problems.add((*path, *_keys(refused.where)), refused.message, line=refused.line - 1)
            return None
        if key is not None:
            self._compiled[key] = compiled
        return compiled

    def _note_truth(self, path: Path, value: Compiled, *, keep: bool = True) -> None:
        """Of a constant; without `keep` only whether it can be had. One that takes long, or comes to a limit (which
        names its setting), may do better when it runs."""
        if not self._reach or self._constants <= 0:
            return
        before = perf_counter()
        try:
            truth = bool(value.render(_Nothing(), limits=_CONSTANT))
            if keep:
                self._truth[path] = truth
        except Failed as failed:
            if perf_counter() - before < _AT_ONCE and _SETTINGS not in failed.message:
                self.problems.add(path, f"this always fails: {failed.message}")
        self._constants -= perf_counter() - before

    def _branch(self, scope: Scope, index: int, step: BranchStep, gates: dict[int, list[Gate]]) -> None:
        chosen: dict[int, set[int | str]] = {}
        ways: list[tuple[int | str, Path, Any]] = [
            (number, ("cases", number, "then"), case.then) for number, case in enumerate(step.cases)
        ]
        for way, path, then in (*ways, ("default", ("default",), step.default)):
            for target in self._targets(scope, index, (*scope.path, index, *path), then):
                chosen.setdefault(target, set()).add(way)
        for target, cases in chosen.items():
            gates.setdefault(target, []).append(Gate(index, frozenset(cases)))
            scope.edges[target].add(index)

    def _targets(self, scope: Scope, index: int, path: Path, then: Any) -> list[int]:
        found = []
        for number, name in enumerate(then if isinstance(then, list | tuple) else [then]):
            place = (*path, number) if isinstance(then, list | tuple) else path
            target = scope.ids.get(name) if isinstance(name, str) else None
            if not isinstance(name, str):
                self.problems.add(place, "expected the id of a step")
            elif target is None and self.problems.gaps.hides(name):
                continue
            elif target is None:
                hint = self.problems.near(name, scope.ids)
                self.problems.add(place, f"there is no step {name!r} beside this branch", hint)
            elif target == index:
                self.problems.add(place, "a branch cannot lead to itself")
            else:
                found.append(target)
        return found

    def _call(self, step: WorkflowStep, path: Path) -> None:
        text = step.workflow
        place = (*path, "workflow")
        if text in self._broken:
            again = [f"workflow {text} cannot be called, as told before"]
            for message in again if text in self._told else self._broken[text]:
                self.problems.add(place, message)
                self._derived.add(message)
            self._told[text] = None
        elif text not in self.plans:
            self.problems.add(place, f"there is no workflow {text!r}")
        else:
            self._steps += self.plans[text].steps

    def _outputs(self, root: Scope) -> dict[str, Any]:
        declared = self.definition.outputs
        if isinstance(declared, list):
            return {name: self._named(root, name, number) for number, name in enumerate(declared)}
        outputs: dict[str, Any] = {}
        for name, value in declared.items():
            path = ("outputs", name)
            outputs[name] = compiled = self._value(value, path)
            if isinstance(compiled, Compiled):
                self._references.read(compiled, Reader(root, None, path, value, certain=True))
        return outputs

    def _named(self, root: Scope, name: str, number: int) -> Any:
        compiled = self._value(f'{{{{ outputs["{name}"] }}}}', ("outputs", number))
        self._references.read(compiled, Reader(root, None, ("outputs", number), name, certain=True))
        return compiled

    # Order.

    def _order(self, scope: Scope) -> None:
        """Cycles; then, where there are none, what never runs."""
        feeds = reversed_edges(scope.edges)
        order = ordered(scope.edges, feeds)
        if len(order) < len(scope.steps):
            for circle in cycles(scope.edges, set(range(len(scope.steps))).difference(order)):
                self._circle(scope, circle)
        reach = Reach(scope, self._gates[scope.path], self._truth, self.problems)
        if self._reach:
            reach.run(order)
        for index, child in scope.children.items():
            if index not in reach.dead:
                self._order(child)

    def _circle(self, scope: Scope, circle: list[int]) -> None:
        names = [scope.steps[index].id for index in circle]
        if len(names) > _SHOWN:
            names[_SHOWN - 2 : -1] = [f"({len(names) - _SHOWN + 1} more)"]
        way = " → ".join([*names, names[0]])
        self.problems.add((*scope.path, circle[0]), f"steps that wait for each other: {way} (each needs the next)")

    # The plan.

    def _graph(self, scope: Scope) -> Graph:
        feeds = reversed_edges(scope.edges)
        gates = self._gates[scope.path]
        nodes = tuple(
            Node(
                index,
                step,
                tuple(sorted(scope.edges[index])),
                tuple(feeds[index]),
                tuple(gates.get(index, ())),
                self.values[(*scope.path, index)],
                self._graph(scope.children[index]) if index in scope.children else None,
                self.plans[step.workflow] if isinstance(step, WorkflowStep) else None,
            )
            for index, step in enumerate(scope.steps)
        )
        first = tuple(node.index for node in nodes if not node.needs)
        return Graph(nodes, scope.names, scope.ids, first)


class _Nothing:
    """No variables: what constants are filled in with."""

    def lookup(self, name: str) -> Any:
        raise KeyError(name)


def _keys(where: str) -> Path:
    """A dotted place inside of a value."""
    return tuple(int(key) if key.isdigit() else key for key in where.split(".")) if where else ()
