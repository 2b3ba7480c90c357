"""Definitions made in Python. What is made is the same structure that files say, and is checked by the same code.

    w = Workflow("review")
    text = w.input("text", {"type": "string"})
    draft = w.llm("draft", route="echo", prompt=f"Summarise this: {text}")
    w.llm("check", route="echo", prompt=f"Is this right? {draft.text}", condition=f"{draft.text:e} != ''")
    w.output("summary", draft.text)
    definition = w.definition()

A reference is written `{{ … }}` in an f-string and in any value, and bare with the format `e`, for expressions.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Unpack

from pipeline.workflow.checking import check
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import Fault
from pipeline.workflow.keywords import Action, Common, Embed, Llm, Loop, Map, Parallel, Reduce, Search, Transform, Wait
from pipeline.workflow.ports import Catalog, Kind
from pipeline.workflow.source import read_tree
from pipeline.workflow.writing import to_json, to_yaml

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Reference:
    """An expression that names something: attributes and items lead further in."""

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def __getattr__(self, name: str) -> "Reference":
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> "Reference":
        if isinstance(key, str) and _NAME.fullmatch(key):
            return Reference(f"{self._expression}.{key}")
        return Reference(f"{self._expression}[{_quoted(key)}]")

    def __format__(self, spec: str) -> str:
        if spec not in ("", "e"):
            raise ValueError(f"a reference has the formats '' and 'e', not {spec!r}")
        return self._expression if spec else str(self)

    def __str__(self) -> str:
        return f"{{{{ {self._expression} }}}}"

    def __repr__(self) -> str:
        return f"Reference({self._expression!r})"


class StepReference(Reference):
    """A step that was added: `step.text` and the like are its fields; by itself it stands for its value."""

    def __init__(self, step_id: str) -> None:
        super().__init__(f"{Reference('steps')[step_id]:e}.value")
        self.id = step_id

    def __getitem__(self, key: str | int) -> Reference:
        return Reference(f"{Reference('steps')[self.id]:e}")[key]


class Steps:
    """A list of steps that grows. Each method adds one, and takes the keys that `docs/reference/workflow.md` has for
    its type, by their names (`as_` for `as`). Nothing is checked here: keys and their types are by
    `Workflow.definition`, everything by `Workflow.validate`."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self._steps = steps

    def llm(self, step_id: str, **keys: Unpack[Llm]) -> StepReference:
        return self.add(step_id, "llm", **keys)

    def embed(self, step_id: str, **keys: Unpack[Embed]) -> StepReference:
        return self.add(step_id, "embed", **keys)

    def vector_search(self, step_id: str, *, collection: Any, query: Any, **keys: Unpack[Search]) -> StepReference:
        return self.add(step_id, "vector_search", collection=collection, query=query, **keys)

    def vector_upsert(self, step_id: str, *, collection: Any, documents: Any, **keys: Unpack[Common]) -> StepReference:
        return self.add(step_id, "vector_upsert", collection=collection, documents=documents, **keys)

    def transform(self, step_id: str, operation: str, **keys: Unpack[Transform]) -> StepReference:
        return self.add(step_id, "transform", operation=operation, **keys)

    def action(self, step_id: str, action: str, **keys: Unpack[Action]) -> StepReference:
        return self.add(step_id, "action", action=action, **keys)

    def workflow(
        self, step_id: str, workflow: str, inputs: Mapping[str, Any] | None = None, **keys: Unpack[Common]
    ) -> StepReference:
        return self.add(step_id, "workflow", workflow=workflow, inputs=dict(inputs or {}), **keys)

    def wait(self, step_id: str, **keys: Unpack[Wait]) -> StepReference:
        return self.add(step_id, "wait", **keys)

    def custom(
        self, step_id: str, kind: str, options: Mapping[str, Any] | None = None, **keys: Unpack[Common]
    ) -> StepReference:
        return self.add(step_id, kind, options=dict(options or {}), **keys)

    def branch(self, step_id: str, **keys: Unpack[Common]) -> "Branch":
        return Branch(self._steps, self._add(step_id, "branch", {**keys, "cases": []}))

    def parallel(self, step_id: str, **keys: Unpack[Parallel]) -> "Body":
        return Body(self._add(step_id, "parallel", {**keys, "steps": []}))

    def map(self, step_id: str, *, items: Any, **keys: Unpack[Map]) -> "Body":
        return Body(self._add(step_id, "map", {"items": items, **keys, "steps": []}))

    def reduce(self, step_id: str, *, items: Any, **keys: Unpack[Reduce]) -> "Body":
        return Body(self._add(step_id, "reduce", {"items": items, **keys, "steps": []}))

    def loop(self, step_id: str, **keys: Unpack[Loop]) -> "Body":
        return Body(self._add(step_id, "loop", {**keys, "steps": []}))

    def add(self, step_id: str, kind: str, **keys: Any) -> StepReference:
        """A step of any type."""
        return StepReference(self._add(step_id, kind, keys)["id"])

    def _add(self, step_id: str, kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        step = {"id": step_id, "type": kind, **{key.removesuffix("_"): written(one) for key, one in keys.items()}}
        if "depends_on" in step:
            step["depends_on"] = [one.id if isinstance(one, StepReference) else one for one in keys["depends_on"]]
        self._steps.append(step)
        return step


class Body(Steps, StepReference):
    """A step with steps inside, which are added by its methods; a field that is called like one of them is had by
    `body["name"]`. `item`, `index`, `accumulator` and `iteration` are what it is about inside."""

    def __init__(self, step: dict[str, Any]) -> None:
        Steps.__init__(self, step["steps"])
        StepReference.__init__(self, step["id"])
        self._step = step

    @property
    def item(self) -> Reference:
        return Reference(self._step.get("as", "item"))

    @property
    def index(self) -> Reference:
        return Reference("index")

    @property
    def accumulator(self) -> Reference:
        return Reference(self._step.get("accumulator", "accumulator"))

    @property
    def iteration(self) -> Reference:
        return Reference("iteration")

    def variable(self, name: str) -> Reference:
        return Reference(name)


class Branch(StepReference):
    """Cases are looked at in the order in which they were added. Steps of a case stand beside the branch."""

    def __init__(self, beside: list[dict[str, Any]], step: dict[str, Any]) -> None:
        super().__init__(step["id"])
        self._beside = beside
        self._step = step

    def case(self, when: str | bool | Reference, *then: StepReference | str) -> "Way":  # noqa: FBT001 - a value
        self._step["cases"].append({"when": written(when), "then": (targets := [_id(one) for one in then])})
        return Way(self._beside, targets)

    def default(self, *then: StepReference | str) -> "Way":
        targets = self._step.setdefault("default", [])
        targets += [_id(one) for one in then]
        return Way(self._beside, targets)


class Way(Steps):
    """What is added here is done only where the branch goes this way."""

    def __init__(self, beside: list[dict[str, Any]], targets: list[str]) -> None:
        super().__init__(beside)
        self._targets = targets

    def _add(self, step_id: str, kind: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        self._targets.append(step_id)
        return super()._add(step_id, kind, keys)


class Workflow(Steps):
    """A definition in the making. `keys` are the others that a definition has."""

    def __init__(self, name: str, *, version: str = "1", **keys: Any) -> None:
        super().__init__([])
        self._tree: dict[str, Any] = {"name": name, "version": version, **keys, "steps": self._steps}

    def input(self, name: str, schema: dict[str, Any] | bool = True, **keywords: Any) -> Reference:  # noqa: FBT001, FBT002 - a schema
        """`keywords` are more of the schema's: `default="x"`. Without a default it must be given."""
        one = {**schema, **keywords} if isinstance(schema, dict) else keywords or schema
        self._tree.setdefault("inputs", {})[name] = one
        return Reference("inputs")[name]

    def output(self, name: str, value: Any) -> None:
        self._tree.setdefault("outputs", {})[name] = written(value)

    def tree(self) -> dict[str, Any]:
        return self._tree

    def definition(self, kinds: Collection[str] | None = None) -> Definition:
        """Raises `DefinitionRefused` with all that is wrong with single keys. References, cycles and the rest are
        looked at by `validate`, and where it is run."""
        source = read_tree(self._tree, kinds)
        source.raise_if_any()
        if source.definition is None:
            raise TypeError("a definition without faults can be made")
        return source.definition

    def validate(
        self,
        *,
        others: Mapping[str, Definition] | None = None,
        catalog: Catalog | None = None,
        kinds: Mapping[str, Kind] | None = None,
    ) -> list[Fault]:
        """Everything that is wrong, as `headgate workflow validate` says it. Without a catalog, routes and collections
        are not looked at."""
        return check(read_tree(self._tree, kinds), others=others or {}, catalog=catalog, kinds=kinds or {})

    def to_yaml(self) -> str:
        return to_yaml(self.definition())

    def to_json(self) -> bytes:
        return to_json(self.definition())


def written(value: Any) -> Any:
    """A value with its references as templates."""
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, Mapping):
        return {key: written(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [written(one) for one in value]
    return value


def _id(step: StepReference | str) -> str:
    return step.id if isinstance(step, StepReference) else step


def _quoted(key: str | int) -> str:
    if isinstance(key, int):
        return str(key)
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
