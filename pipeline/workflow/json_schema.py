"""JSON schema (2020-12) for what workflows take and give: inputs, answers, options of custom steps.

A schema comes from whoever declares a workflow, so it is held to limits before it is used (see `json_schema_shape`):
nothing is fetched, patterns take linear time, and no small value takes for ever. `format` is checked, not only noted.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec

from pipeline.workflow.json_schema_shape import MAX_DEPTH, SchemaRefused, Shape, shape_of

__all__ = ["MAX_FAULTS", "SchemaRefused", "Validator", "compile_schema"]

MAX_FAULTS = 20
MAX_MESSAGE = 300  # characters
_SHOWN = 40  # characters of a value
_REGEX_BYTES = 1 << 20  # of one compiled pattern
_CACHED = 256
_ALTERNATIVES = (jsonschema_rs.ValidationErrorKind.AnyOf, jsonschema_rs.ValidationErrorKind.OneOfNotValid)
_LARGE = 5000  # values within a value

Path = tuple[str | int, ...]
Schema = dict[str, Any] | bool


class Validator:
    """A schema made ready. Immutable; serves any number of values."""

    def __init__(self, schema: Schema, validator: jsonschema_rs.Draft202012Validator, shape: Shape) -> None:
        self.schema = schema
        self._validator = validator
        self._depth = min(MAX_DEPTH, shape.value_depth)
        self._alternatives = b'"anyOf"' in shape.text or b'"oneOf"' in shape.text

    def faults(self, value: Any) -> list[tuple[Path, str]]:
        """What is wrong with a JSON value: where (keys and indices from its root) and what, at most `MAX_FAULTS`. Empty
        where it fits. One that is nested too deeply has one fault, and so has one that is not JSON, where the schema
        comes upon that."""
        if deeper_than(value, self._depth):
            return [((), f"nested too deeply: more than {self._depth} levels")]
        try:
            if self._validator.is_valid(value):
                return []
            return list(self._found(value))
        except (ValueError, TypeError, OverflowError) as error:
            return [((), shortened(f"not JSON: {error}"))]

    def _found(self, value: Any) -> Iterator[tuple[Path, str]]:
        """The library makes all its errors at once, and for alternatives those of each. Of a large value that would
        take seconds, so it is told the first, or only that it does not fit."""
        if larger_than(value, _LARGE):
            yield self._first(value)
            return
        for number, error in enumerate(self._validator.iter_errors(value)):
            if number == MAX_FAULTS:
                return
            yield tuple(error.instance_path), shortened(_told(error))

    def _first(self, value: Any) -> tuple[Path, str]:
        if not self._alternatives:
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                return tuple(error.instance_path), shortened(_told(error))
        return (), "does not fit the schema, and is too large to say where"


def compile_schema(schema: Any) -> Validator:
    """Raises `SchemaRefused` for what is no JSON schema, or not one that may be used here. The same schema is made
    ready once."""
    shape = shape_of(schema)
    digest = hashlib.blake2b(shape.text, digest_size=16).digest()
    known = _known.get(digest)
    if known is None:
        known = _known[digest] = Validator(schema, _made(schema), shape)
        if len(_known) > _CACHED:
            _known.popitem(last=False)
    else:
        _known.move_to_end(digest)
    return known


def _made(schema: Schema) -> jsonschema_rs.Draft202012Validator:
    patterns = jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES)
    try:
        return jsonschema_rs.Draft202012Validator(
            schema,
            validate_formats=True,
            pattern_options=patterns,
            offline=True,  # nothing is fetched
            mask="the value",
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaRefused(shortened(_refusal(error)), tuple(error.instance_path)) from None
    except (ValueError, TypeError, OverflowError, jsonschema_rs.ReferencingError) as error:
        raise SchemaRefused(shortened(str(error)), ()) from None


def _refusal(error: jsonschema_rs.ValidationError) -> str:
    path = list(error.instance_path)
    keyword = path[-1] if path else ""
    if keyword == "pattern" or (len(path) > 1 and path[-2] == "patternProperties"):
        return "the pattern cannot be used: it is no regular expression, too large, or needs look-around or references"
    if keyword == "type":
        return "no type: expected null, boolean, integer, number, string, array or object, or a list of those"
    return str(error.message) + _shown(error.instance)


def _told(error: jsonschema_rs.ValidationError) -> str:
    kind = error.kind
    if isinstance(kind, _ALTERNATIVES):
        reasons = dict.fromkeys(_placed(branch[0]) for branch in kind.context if branch)
        return f"the value fits none of the alternatives: {'; '.join(reasons)}"
    return str(error.message) + _shown(error.instance)


def _placed(error: jsonschema_rs.ValidationError) -> str:
    """Within an alternative: paths are from the value's root there too."""
    where = ".".join(map(str, error.instance_path))
    message = "fits none of the alternatives" if isinstance(error.kind, _ALTERNATIVES) else str(error.message)
    return f"{where}: {message}" if where else message


def _shown(value: Any) -> str:
    """Small plain values only: a large one says nothing to a reader."""
    if value is None or isinstance(value, bool | int | float):
        text = msgspec.json.encode(value).decode()
    elif isinstance(value, str):
        text = repr(value)
    else:
        return ""
    return f" (got {text})" if len(text) <= _SHOWN else ""


def shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def deeper_than(value: Any, levels: int) -> bool:
    """Whether a value has more than so many containers within each other. Looks no deeper than that."""
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        inner: list[Any] = []
        for one in layer:
            inner += [
                held for held in (one.values() if isinstance(one, dict) else one) if isinstance(held, dict | list)
            ]
        if not inner:
            return False
        layer = inner
    return bool(layer)


def larger_than(value: Any, count: int) -> bool:
    """Whether a value has more than so many others within. Looks at no more than that."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            seen += len(one)
            if seen > count:
                return True
            waiting += one.values() if isinstance(one, dict) else one
    return False


_known: OrderedDict[bytes, Validator] = OrderedDict()
