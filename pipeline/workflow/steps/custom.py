"""Types of steps from other packages: entry points of the group `headgate.steps`, each a `Kind`."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

import structlog

from pipeline.workflow.definition import AnyStep, CustomStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.json_schema import SchemaRefused, Validator, compile_schema
from pipeline.workflow.ports import Handler, Kind, Result, StepContext

GROUP = "headgate.steps"
BUILT_IN = frozenset(str(kind.__struct_config__.tag) for kind in get_args(AnyStep))

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}").fullmatch
_log = structlog.get_logger("headgate.workflow")


def custom_kinds(found: Iterable[EntryPoint] | None = None) -> Mapping[str, Kind]:
    """By the name of the type. Of one that cannot be used checks tell what is wrong with it (`Kind.problem`), and steps
    of its type fail with that. A name that is a built-in type's, or no name, is only logged. `found`: else what is
    installed."""
    kinds: dict[str, Kind] = {}
    given = list(entry_points(group=GROUP)) if found is None else list(found)
    for entry in given:
        if entry.name in BUILT_IN or _NAME(entry.name) is None:
            reason = "it is a built-in type's" if entry.name in BUILT_IN else "it is no identifier"
            _log.warning("workflow_step_type_refused", type=entry.name, entry_point=entry.value, reason=reason)
        elif entry.name in kinds:
            kinds[entry.name] = _broken(entry, "several packages define it")
        else:
            kinds[entry.name] = _loaded(entry)
    return kinds


def _loaded(entry: EntryPoint) -> Kind:
    try:
        kind = entry.load()
    except Exception as error:  # noqa: BLE001 - somebody else's module may fail in any way
        return _broken(entry, f"{type(error).__name__}: {error}"[:500])
    if not isinstance(kind, Kind):
        return _broken(entry, f"it is a {type(kind).__name__}, not a pipeline.workflow.ports.Kind")
    try:
        validator = compile_schema(kind.options)
    except SchemaRefused as refused:
        return _broken(entry, f"its options: {refused.message}")
    return Kind(_Checked(kind.handler, validator), kind.options)


def _broken(entry: EntryPoint, reason: str) -> Kind:
    problem = f"the step type {entry.name!r} ({entry.value}) cannot be used: {reason}"
    return Kind(_Failing(entry, reason, problem), problem=problem)


class _Failing:
    """The handler of a type that cannot be used. That is logged where somebody wants to, and once."""

    def __init__(self, entry: EntryPoint, reason: str, message: str) -> None:
        self._entry = entry
        self._reason = reason
        self._message = message
        self._logged = False

    async def __call__(self, step: Any, context: StepContext) -> Result:  # noqa: ARG002 - whatever it is
        name, value = self._entry.name, self._entry.value
        if not self._logged:
            self._logged = True
            _log.warning("workflow_step_type_unusable", type=name, entry_point=value, reason=self._reason)
        raise StepFailed("unusable_type", self._message, details={"type": name})


class _Checked:
    """Looks at the options once they are filled in, before the handler gets to see the step."""

    def __init__(self, handler: Handler, validator: Validator) -> None:
        self._handler = handler
        self._validator = validator

    async def __call__(self, step: CustomStep, context: StepContext) -> Result:
        options = {}
        for name in step.options:
            await context.turn()
            options[name] = context.value(f"options.{name}")
        faults = self._validator.faults(options)
        if faults:
            path, message = faults[0]
            field = ".".join(["options", *map(str, path)])
            raise StepFailed("invalid_input", f"{field}: {message}", details={"field": field})
        return await self._handler(step, context)
