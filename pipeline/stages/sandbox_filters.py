"""Filters that jinja2 has but that can make much of little, made anew with a meter. See `pipeline.stages.sandbox`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from jinja2 import Undefined, pass_context
from jinja2.runtime import Context

FILTERS = frozenset(
    "abs capitalize count d default first float int items join last length list lower map max min "
    "reject rejectattr reverse select selectattr sort title trim truncate unique upper wordcount".split()
)
# Where among its arguments a filter takes an attribute's name, which must be short: each part of it is a step.
ATTRIBUTE_AT = {"sum": 0, "groupby": 0, "selectattr": 0, "rejectattr": 0, "join": 1, "sort": 2, "unique": 1}
ATTRIBUTE_AT |= {"min": 1, "max": 1}
# What looks at all of its input before it gives anything cannot be stopped: it gets no more than takes some 0.1 s.
SORTING = frozenset("sort groupby dictsort".split())
MAX_SORTED = 30_000  # items; half as many by two attributes
COUNTING = frozenset("sum min max unique map select reject selectattr rejectattr".split())  # one item after another
SPLITTING = frozenset("title wordcount fromjson split".split())
MAX_SPLIT = 500_000  # characters
_MAX_STRIPPED = 64
_MAX_DIGITS = 15


class BadArgument(Exception):
    """A filter was given what it does not take."""


@pass_context
def join(context: Context, value: Iterable[Any], separator: Any = "", attribute: Any = None) -> str:
    meter, environment = context["_meter"], context.environment
    texts: list[str] = []
    size = 0
    separator = environment.text_of(meter, separator)  # type: ignore[attr-defined]  # a Sandbox
    for item in value:
        if attribute is not None:
            item = environment.getitem(item, attribute)  # noqa: PLW2901 - the part that is meant
        texts.append(environment.text_of(meter, item))  # type: ignore[attr-defined]  # a Sandbox
        size += len(texts[-1]) + len(separator)
        meter.fits(size - len(separator))
        meter.tick()
    return meter.made(separator.join(texts))  # type: ignore[no-any-return]  # the text


@pass_context
def replace(context: Context, value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    times = text.count(old) if old else len(text) + 1
    if count is not None and count >= 0:
        times = min(times, count)
    meter = context["_meter"]
    meter.fits(len(text) + times * (len(new) - len(old)))
    return meter.made(text.replace(old, new, times))  # type: ignore[no-any-return]  # the text


def trim(value: Any, chars: str | None = None) -> str:
    if chars is not None and len(chars) > _MAX_STRIPPED:
        raise BadArgument(f"trim takes at most {_MAX_STRIPPED} characters")
    return _text(value).strip(chars)


def rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > _MAX_DIGITS:
        raise BadArgument(f"round takes at most {_MAX_DIGITS} digits")
    if method != "common":
        raise BadArgument("round takes no method but 'common'")
    return round(_number(value), precision)


@pass_context
def summed(context: Context, value: Iterable[Any], attribute: str | None = None, start: Any = 0) -> Any:
    total = _number(start)
    for item in value:
        part = item
        for name in () if attribute is None else str(attribute).split("."):
            part = context.environment.getitem(part, name)
        total += _number(part)
    return total


def batch(value: Iterable[Any], size: int) -> Iterator[list[Any]]:
    if size < 1:
        raise BadArgument("batch takes a size of 1 or more")
    group: list[Any] = []
    for item in value:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def fromjson(value: Any) -> Any:
    try:
        return msgspec.json.decode(_text(value))
    except msgspec.DecodeError as error:
        raise BadArgument(f"fromjson: {error}") from error


@pass_context
def tojson(context: Context, value: Any, indent: int | None = None) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise BadArgument("tojson takes an indent of 0 to 8")
    return context.environment.json_of(context["_meter"], value, indent)  # type: ignore[attr-defined,no-any-return]


@pass_context
def string(context: Context, value: Any) -> str:
    return context.environment.text_of(context["_meter"], value)  # type: ignore[attr-defined,no-any-return]


def default_or_null(value: Any, default: Any = "", boolean: bool = False) -> Any:  # noqa: FBT001, FBT002 - jinja2's
    """Also for null: what was skipped is null."""
    if value is None or isinstance(value, Undefined) or (boolean and not value):
        return default
    return value


def entries(value: Any) -> list[tuple[Any, Any]]:
    """What `{{#each}}` goes over: key and value of an object's, index and item of a list's; of null nothing."""
    if value is None:
        return []
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, str | bool | int | float):
        raise BadArgument("{{#each}} takes a list or an object")
    return list(enumerate(value))


def _text(value: Any) -> str:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - as above
    if not isinstance(value, str):
        raise BadArgument(f"text is needed here, not {type(value).__name__}")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - as above
    if not isinstance(value, int | float) or abs(value) > 10**300:
        raise BadArgument(f"a number is needed here, not {type(value).__name__}")
    return value


OWN_FILTERS: dict[str, Any] = {
    "join": join,
    "replace": replace,
    "trim": trim,
    "round": rounded,
    "sum": summed,
    "batch": batch,
    "fromjson": fromjson,
    "tojson": tojson,
    "string": string,
}
