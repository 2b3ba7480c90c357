"""A tree as it is written, made into the tree that a `Definition` has.

Steps written out in a branch are moved beside it, and `then` names them; `inputs` in their short form become a JSON
schema. What is not as it should be is left for others to refuse, where it stands.
"""

import re
from typing import Any, get_args

from pipeline.workflow.definition import AnyStep
from pipeline.workflow.markup import Path, Wrong, shown
from pipeline.workflow.signature import is_schema

BUILT_IN: tuple[str, ...] = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyStep))
TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,127}")
AN_IDENTIFIER = "an identifier: at most 128 letters, digits, _ and -, that begins with a letter or _"
_WITH_STEPS = frozenset({"parallel", "map", "reduce", "loop"})


class Flat:
    """`origins`: for lists of steps into which some were moved, by the list's path: where each element is written.
    `customs`: the steps of other than the built-in types, as the list, the index in it, and the
    path where they stand."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.origins: dict[Path, list[Path]] = {}
        self.customs: list[tuple[list[Any], int, Path]] = []
        self.problems: list[Wrong] = []
        self.short = False  # the inputs were in their short form
        self.tree = dict(tree)
        if "steps" in tree:
            self.tree["steps"] = self._steps(tree["steps"], ("steps",), ("steps",))
        if isinstance(inputs := tree.get("inputs"), dict) and inputs and not is_schema(inputs):
            self.short = True
            self._check_short(inputs)
            self.tree["inputs"] = inputs_schema(inputs)

    def written(self, path: Path) -> Path:
        """Where in the text a path of the definition leads."""
        if self.short and path[:2] == ("inputs", "properties"):
            return ("inputs", *path[2:])
        at: Path = ()
        for position, part in enumerate(path):
            origins = self.origins.get(path[:position])
            known = origins is not None and isinstance(part, int) and 0 <= part < len(origins)
            at = origins[part] if origins is not None and known and isinstance(part, int) else (*at, part)
        return at

    def _check_short(self, inputs: dict[str, Any]) -> None:
        for name, schema in inputs.items():
            if not isinstance(schema, dict | bool):
                hint = f"{{type: {schema}}}" if isinstance(schema, str) and schema in TYPES else ""
                message = f"found {shown(schema)}, expected a JSON schema: a mapping, true or false"
                self.problems.append(Wrong(message, hint, ("inputs", name)))

    def _steps(self, steps: Any, path: Path, written: Path) -> Any:
        if not isinstance(steps, list):
            return steps
        laid: list[Any] = []
        origins: list[Path] = []
        for index, step in enumerate(steps):
            self._lay(step, (*written, index), path, laid, origins)
        if len(laid) != len(steps) or path in self.origins or path != written:
            self.origins[path] = origins
        return laid

    def _lay(self, step: Any, written: Path, path: Path, laid: list[Any], origins: list[Path]) -> None:
        """Puts a step, and after it those that are written out inside of it, at the end of what is laid."""
        here = (*path, len(laid))
        index = len(laid)
        laid.append(step)
        origins.append(written)
        if not isinstance(step, dict):
            return
        output, kind = step.get("output"), step.get("type")
        if output.__class__ is str and not _IDENTIFIER.fullmatch(output):
            self.problems.append(Wrong(f"found {shown(output)}, expected {AN_IDENTIFIER}", "", (*here, "output")))
        if kind == "branch":
            laid[index] = self._branch(step, written, here, laid, origins)
        elif kind.__class__ is str and kind in _WITH_STEPS and "steps" in step:
            laid[index] = {**step, "steps": self._steps(step["steps"], (*here, "steps"), (*written, "steps"))}
        elif kind.__class__ is str and kind not in BUILT_IN:
            self.customs.append((laid, index, here))

    def _branch(
        self, step: dict[str, Any], written: Path, here: Path, laid: list[Any], origins: list[Path]
    ) -> dict[str, Any]:
        def targets(then: Any, path: Path) -> list[str]:
            if isinstance(then, list):
                return [target(one, (*path, number)) for number, one in enumerate(then)]
            return [] if then is None else [target(then, path)]

        def target(one: Any, path: Path) -> str:
            if isinstance(one, str):
                return one
            if isinstance(one, dict):
                self._lay(one, (*written, *path), here[:-1], laid, origins)
                name = one.get("id")
                return name if isinstance(name, str) else ""
            message = f"found {shown(one)}, expected the id of a step, a step, or a list of those"
            self.problems.append(Wrong(message, "", (*here, *path)))
            return ""

        changed = dict(step)
        if isinstance(cases := step.get("cases"), list):
            changed["cases"] = [
                {**case, "then": targets(case["then"], ("cases", number, "then"))}
                if isinstance(case, dict) and "then" in case
                else case
                for number, case in enumerate(cases)
            ]
        if "default" in step:
            changed["default"] = targets(step["default"], ("default",))
        return changed


def inputs_schema(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs as a JSON schema of an object. In their short form, name -> schema, each is needed that has no default."""
    if not inputs or is_schema(inputs):
        return inputs
    required = [name for name, one in inputs.items() if not (isinstance(one, dict) and "default" in one)]
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": dict(inputs), **needed, "additionalProperties": False}
