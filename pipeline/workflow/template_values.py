"""Values that templates make or print: measured before they are built, and made JSON.

A list that holds another several times, and that one a third, is small in memory and can be exponentially large as
JSON. So nothing is printed, kept or given back before its size as JSON is known to be within the limit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from jinja2 import Undefined
from jinja2.runtime import LoopContext

from pipeline.stages.sandbox import TemplateFailed

MAX_NESTING = 100
_LOOK = 1024  # values between two looks at the clock
_SCALAR = frozenset([str, int, float, bool, type(None)])
_FOREIGN: tuple[type, ...] = (tuple, range, Iterator, Mapping, type({}.keys()), type({}.values()), type({}.items()))


def plain(value: Any, limit: int, tick: Callable[[], None]) -> Any:
    """The value as JSON types, itself where it is made of nothing else. Raises `TemplateFailed` where it is larger than
    `limit`, nested too deeply, or no JSON."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if not weigh(value, limit, tick):
        value = _Converted(limit, tick).of(value, 0)
        weigh(value, limit, tick)
    return value


def weigh(value: Any, limit: int, tick: Callable[[], None]) -> bool:
    """Whether a value is JSON as it is. Raises `TemplateFailed` where it would be about `limit` characters or more."""
    known = _known.get(id(value))
    if known is not None and known[0] is value:
        _fits(known[1], limit)
        return True
    weight = _weighed(value, limit, tick)
    return weight is not None and weight.pure


def weigh_sum(left: list[Any], right: list[Any], total: list[Any], limit: int, tick: Callable[[], None]) -> None:
    """As `weigh`. A list that grows item by item is not gone through again each time."""
    size = 0
    for part in (left, right):
        known = _known.get(id(part))
        if known is None or known[0] is not part:
            weight = _weighed(part, limit, tick)
            if weight is None or not weight.pure:
                weigh(total, limit, tick)
                return
            known = (part, weight.size)
        size += known[1]
    _fits(size, limit)
    if len(total) >= _LARGE:
        forget()
        _known[id(total)] = (total, size)


def forget() -> None:
    """To be called now and then: what was weighed is kept until then."""
    _known.clear()


# The last sum and its weight, by its id. Values are never changed, and it is there as long as it stands here.
_known: dict[int, tuple[list[Any], int]] = {}
_LARGE = 64


def _fits(size: int, limit: int) -> None:
    if size > limit:
        raise TemplateFailed(f"the value is larger than {limit} characters of JSON")


def _weighed(value: Any, limit: int, tick: Callable[[], None]) -> "_Weight | None":
    """None: it is not JSON as it is."""
    weight = _Weight(limit, tick)
    stack: list[Iterator[Any]] = [iter((value,))]
    try:
        while stack:
            for item in stack[-1]:
                inside = weight.add(item, len(stack))
                if inside is not None:
                    stack.append(inside)
                    break
            else:
                stack.pop()
    except _IsForeign:
        return None
    return weight


class _IsForeign(Exception):
    """Something that must be made JSON first."""


class _Weight:
    __slots__ = ("_limit", "_seen", "_tick", "pure", "size")

    def __init__(self, limit: int, tick: Callable[[], None]) -> None:
        self._limit = limit
        self._tick = tick
        self.size = 0
        self._seen = 0
        self.pure = True

    def add(self, item: Any, depth: int) -> Iterator[Any] | None:
        """Counts a value; the values in it, where there are any."""
        kind = type(item)
        inside: Iterator[Any] | None = None
        if kind is str:
            self.size += len(item) + 2
        elif kind is list or kind is dict:
            if depth > MAX_NESTING:
                raise TemplateFailed(f"a value nested more than {MAX_NESTING} deep")
            self.size += 2 + len(item)
            inside = iter(item) if kind is list else self._fields(item)
        else:
            self.size += 4
            _check(item)
        self._seen += 1
        if self._seen % _LOOK == 0:
            self._tick()
        _fits(self.size, self._limit)
        return inside

    def _fields(self, value: dict[Any, Any]) -> Iterator[Any]:
        try:
            self.size += sum(map(len, value)) + 3 * len(value)
        except TypeError:  # names that are no texts
            self.pure = False
        return iter(value.values())


def _check_foreign(value: Any) -> None:
    try:
        _check(value)
    except _IsForeign:
        return


def _check(value: Any) -> None:
    if type(value) in _SCALAR:
        _check_number(value)
    elif isinstance(value, _FOREIGN) and not isinstance(value, LoopContext):
        raise _IsForeign
    elif isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
    else:
        raise TemplateFailed(f"a {type(value).__name__} is no value: name the part of it that is meant")


def _check_number(value: Any) -> None:
    if type(value) is int and not -(2**63) <= value < 2**64:
        raise TemplateFailed("a whole number of more than 64 bits is no value")
    if type(value) is float and not math.isfinite(value):
        raise TemplateFailed(f"{value} is no value")


class _Converted:
    """Tuples, ranges, iterators and views as lists, other mappings as objects, keys as texts."""

    def __init__(self, limit: int, tick: Callable[[], None]) -> None:
        self._left = limit
        self._tick = tick

    def of(self, value: Any, depth: int) -> Any:
        if type(value) in _SCALAR:
            return value
        if depth > MAX_NESTING:
            raise TemplateFailed(f"a value nested more than {MAX_NESTING} deep")
        if isinstance(value, Mapping):
            return {self._key(key): self.of(value[key], depth + 1) for key in self._counted(value)}
        if not isinstance(value, list):
            _check_foreign(value)
        return [self.of(item, depth + 1) for item in self._counted(value)]

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._left -= 1
            if self._left < 0:
                raise TemplateFailed("the value is larger than allowed")
            if self._left % _LOOK == 0:
                self._tick()
            yield value

    def _key(self, key: Any) -> str:
        if isinstance(key, str):
            return key
        if key is None or isinstance(key, bool | int | float):
            return json_text(key)
        raise TemplateFailed(f"a {type(key).__name__} cannot be the name of a field")


def json_text(value: Any, indent: int | None = None) -> str:
    """Of a value that is plain."""
    data = msgspec.json.encode(value)
    if indent:
        data = msgspec.json.format(data, indent=indent)
    return data.decode()


def text_of(value: Any, limit: int, tick: Callable[[], None]) -> str:
    """As it is printed: texts as they are, nothing for null, anything else as JSON."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is int or type(value) is float:
        return str(value)
    if isinstance(value, str):
        return str(value)
    return json_text(plain(value, limit, tick))
