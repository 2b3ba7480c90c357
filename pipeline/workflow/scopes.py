"""Which names there are where: the ids and output names of each list of steps, and what encloses it."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipeline.workflow.definition import (
    FIELDS,
    MAX_DEPTH,
    OTHER_FIELDS,
    CustomStep,
    LoopStep,
    MapStep,
    ParallelStep,
    ReduceStep,
)
from pipeline.workflow.plan import Named
from pipeline.workflow.problems import Path, Problems

ROOTS = frozenset({"inputs", "input", "steps", "outputs"})
_WORDS = frozenset("true false none True False None and or not if else is in".split())
_COMPOSITES = frozenset({ParallelStep, MapStep, ReduceStep, LoopStep})
ALWAYS = ("value", "output", "state", "error", "metadata")


class Scope:
    """A list of steps. `edges`: for each of them the indices of those that it needs; `owner` is the index of the step
    that holds the list, in `parent`. `local` are the variables that the owner adds inside."""

    __slots__ = ("children", "edges", "exports", "ids", "local", "names", "owner", "parent", "path", "steps")

    def __init__(self, steps: Sequence[Any], path: Path, parent: "Scope | None" = None, owner: int = -1) -> None:
        self.steps = steps
        self.path = path
        self.parent = parent
        self.owner = owner
        self.local: frozenset[str] = frozenset() if parent is None else local_of(parent.steps[owner])
        self.edges: list[set[int]] = [set() for _ in steps]
        self.children: dict[int, Scope] = {}
        self.ids: dict[str, int] = {}
        self.names: dict[str, Named] = {}
        self.exports: list[str] = []  # output names: those of steps inside among them, where they are known outside

    def outward(self) -> "Iterator[Scope]":
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    @property
    def holder(self) -> Any:
        """The step that holds the list; None for the workflow's own."""
        return None if self.parent is None else self.parent.steps[self.owner]


def local_of(step: Any) -> frozenset[str]:
    """The variables that a step adds for the steps inside of it."""
    match step:
        case MapStep():
            return frozenset({step.as_, "index"})
        case ReduceStep():
            return frozenset({step.as_, step.accumulator, "index"})
        case LoopStep():
            return frozenset({*step.variables, "iteration"})
        case _:
            return frozenset()


def fields_of(step: Any) -> tuple[str, ...]:
    """What a list for `output` names, in order."""
    return FIELDS.get(type_of(step), OTHER_FIELDS)


def type_of(step: Any) -> str:
    if isinstance(step, CustomStep):
        return step.type
    return str(step.__struct_config__.tag)


def survey(steps: Sequence[Any], problems: Problems) -> tuple[Scope, int]:
    """The scope of a workflow's steps, with those inside of it, and how many steps there are in all."""
    surveyor = _Surveyor(problems)
    root = surveyor.scope(Scope(steps, ("steps",)), 1)
    return root, surveyor.steps


class _Surveyor:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self.steps = 0

    def scope(self, scope: Scope, depth: int) -> Scope:
        self.steps += len(scope.steps)
        outputs: dict[str, Named] = {}
        for index, step in enumerate(scope.steps):
            self._id(scope, index, step)
        for index, step in enumerate(scope.steps):
            if type(step) in _COMPOSITES and step.steps:
                self._inside(scope, index, step, depth)
            if step.output is not None:
                self._outputs(scope, index, step, outputs)
            if index in scope.children:
                self._exported(scope, index, step, outputs)
        scope.names = {name: Named(index) for name, index in scope.ids.items()}
        scope.names.update(outputs)
        scope.exports = list(outputs)
        return scope

    def _id(self, scope: Scope, index: int, step: Any) -> None:
        first = scope.ids.setdefault(step.id, index)
        if first != index:
            path = (*scope.path, index, "id")
            self._problems.add(path, f"the id {step.id!r} is taken: step {first + 1} of this list has it")
            return
        for outer in scope.parent.outward() if scope.parent is not None else ():
            if step.id in outer.ids:
                path = (*scope.path, index, "id")
                self._problems.add(path, f"the id {step.id!r} is taken by a step around this one")
                return

    def _inside(self, scope: Scope, index: int, step: Any, depth: int) -> None:
        path = (*scope.path, index, "steps")
        if depth >= MAX_DEPTH:
            self._problems.add(path, f"steps within steps more than {MAX_DEPTH} deep")
            return
        for name in sorted(local_of(step)):
            self._readable(path[:-1], name)
        scope.children[index] = self.scope(Scope(step.steps, path, scope, index), depth + 1)

    def _outputs(self, scope: Scope, index: int, step: Any, outputs: dict[str, Named]) -> None:
        path = (*scope.path, index, "output")
        if isinstance(step.output, str):
            self._name(scope, path, step.output, Named(index), outputs)
            return
        fields = fields_of(step)
        if len(step.output) > len(fields):
            self._problems.add(
                path, f"{len(step.output)} names, but a step of type {type_of(step)} has {len(fields)} fields",
                f"in order: {', '.join(fields)}",
            )  # fmt: skip
        for position, (name, field) in enumerate(zip(step.output, fields, strict=False)):
            named = Named(index, field if position else None)
            self._name(scope, (*path, position), name, named, outputs)

    def _exported(self, scope: Scope, index: int, step: Any, outputs: dict[str, Named]) -> None:
        """A parallel's and a loop's inner output names are known outside."""
        inner = scope.children[index].exports
        if isinstance(step, LoopStep):
            inner = list(dict.fromkeys([*inner, *step.variables]))
        elif not isinstance(step, ParallelStep):
            return
        for name in inner:
            self._name(scope, (*scope.path, index, "steps"), name, Named(index, inner=name), outputs)

    def _name(self, scope: Scope, path: Path, name: str, named: Named, outputs: dict[str, Named]) -> None:
        self._readable(path, name)
        other = outputs.setdefault(name, named)
        if other is not named:
            holder = scope.steps[other.node].id
            inside = f", inside of it ({other.inner})" if other.inner else ""
            self._problems.add(path, f"the output name {name!r} is taken: step {holder!r} has it{inside}")

    def _readable(self, path: Path, name: str) -> None:
        if name in ROOTS or name in _WORDS:
            self._problems.add(path, f"{name!r} means something else in expressions, and cannot be a name")


def inner_names(scope: Scope, index: int) -> Collection[str]:
    """The names by which `steps.<id>.<name>` reaches into a parallel (output names and ids) or a loop (output names and
    variables)."""
    child = scope.children.get(index)
    step = scope.steps[index]
    if child is not None and isinstance(step, ParallelStep):
        return list(child.names)
    if child is not None and isinstance(step, LoopStep):
        return [*child.exports, *step.variables]
    return ()


def has_field(step: Any, name: str) -> bool:
    """Whether `steps.<id>.<name>` reaches something that the step came to: it is among its `known_fields`."""
    if name in fields_of(step) or name in ALWAYS:
        return True
    output = step.output
    return bool(output) and (name == output if isinstance(output, str) else name in output)


def known_fields(step: Any) -> list[str]:
    """The names by which `steps.<id>.<name>` reaches what the step came to."""
    own = [step.output] if isinstance(step.output, str) else step.output or []
    return list(dict.fromkeys([*fields_of(step), *ALWAYS, *own]))
