"""What is handed over: inputs to called workflows, options to custom steps, defaults to inputs."""

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.workflow.definition import CustomStep, Definition, WorkflowStep
from pipeline.workflow.flat import inputs_schema
from pipeline.workflow.json_schema import SchemaRefused, compile_schema
from pipeline.workflow.json_schema_parts import KEYWORDS
from pipeline.workflow.plan import Plan
from pipeline.workflow.ports import Kind
from pipeline.workflow.problems import Path, Problems, listed
from pipeline.workflow.signature import Declared, declared_inputs, is_schema


class Given:
    def __init__(
        self,
        plans: Mapping[str, Plan],
        kinds: Mapping[str, Kind] | Collection[str],
        problems: Problems,
    ) -> None:
        self._plans = plans
        self._kinds = kinds if isinstance(kinds, Mapping) else {}
        self._problems = problems
        self._declared: dict[str, Declared] = {}

    def declared(self, definition: Definition) -> None:
        """The inputs' schemas, and their defaults."""
        self._misplaced(definition.inputs)
        prefix: Path = ("inputs", "properties") if is_schema(definition.inputs) else ("inputs",)
        try:
            compile_schema(inputs_schema(definition.inputs))
        except SchemaRefused as refused:
            path = refused.path
            where = (*prefix, *path[1:]) if path[:1] == ("properties",) else ("inputs", *path)
            self._problems.add(where, refused.message)
            return
        for name, schema in declared_inputs(definition).names.items():
            if isinstance(schema, dict) and "default" in schema:
                self._fits((*prefix, name, "default"), schema, schema["default"])

    def _misplaced(self, inputs: Mapping[str, Any]) -> None:
        """Names among the keywords of a schema."""
        for name in inputs if is_schema(inputs) else ():
            if name not in KEYWORDS and isinstance(inputs[name], dict | bool) and not name.startswith(("x-", "$")):
                because = "`type: object`" if inputs.get("type") == "object" else "`$schema` or `$ref`"
                message = f"{because} makes the inputs one JSON schema, which has no keyword {name!r}"
                self._problems.add(("inputs", name), message, f"write {name} below `properties`")

    def step(self, path: Path, step: Any, values: Mapping[str, Any]) -> None:
        if isinstance(step, WorkflowStep) and step.workflow in self._plans:
            self._inputs(path, step, values)
        elif isinstance(step, CustomStep) and step.type in self._kinds:
            kind = self._kinds[step.type]
            if kind.problem:
                self._problems.add((*path, "type"), kind.problem)
            elif not values:
                self._fits((*path, "options"), kind.options, step.options)

    def _inputs(self, path: Path, step: WorkflowStep, values: Mapping[str, Any]) -> None:
        declared = self._declared_by(step.workflow)
        place = (*path, "inputs")
        missing = [name for name in declared.required if name not in step.inputs]
        if missing:
            self._problems.add(place, f"the workflow {step.workflow} needs {listed(missing)}")
        for name, value in step.inputs.items():
            if name in declared.names:
                if f"inputs.{name}" not in values:
                    self._fits((*place, name), declared.names[name], value)
            elif not declared.others:
                hint = self._problems.near(name, declared.names)
                self._problems.add((*place, name), f"the workflow {step.workflow} has no input {name!r}", hint)

    def _declared_by(self, text: str) -> Declared:
        if text not in self._declared:
            self._declared[text] = declared_inputs(self._plans[text].definition)
        return self._declared[text]

    def _fits(self, path: Path, schema: Any, value: Any) -> None:
        """A schema that is wrong, or refers to others beside it, is the other side's business."""
        try:
            validator = compile_schema(schema)
        except SchemaRefused:
            return
        for inner, message in validator.faults(value):
            self._problems.add((*path, *inner), message)
