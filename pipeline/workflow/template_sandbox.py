"""The sandbox (`pipeline.stages.sandbox`) as workflows use it: lists and objects can be made and are printed as JSON,
null is printed as nothing, and there are more filters."""

from typing import Any, ClassVar

from jinja2 import Undefined

from pipeline.stages.sandbox import Meter, Sandbox, TemplateFailed
from pipeline.stages.sandbox_filters import FILTERS, OWN_FILTERS, default_or_null, entries
from pipeline.stages.sandbox_parts import part_of
from pipeline.workflow.template_values import json_text, plain, text_of, weigh, weigh_sum

_MORE = frozenset("groupby dictsort".split())
MAX_COMPARED = 500_000  # characters of JSON of what is sorted, where it is not texts and numbers alone
_MAX_INDENTED = 8  # an indented text is at most about this many times as long: it is made only if that is allowed


class ValueMeter(Meter):
    """`max_value`: how large a value may be as JSON, in characters."""

    __slots__ = ("max_value",)

    def __init__(self, max_chars: int, timeout: float, max_value: int) -> None:
        super().__init__(max_chars, timeout)
        self.max_value = max_value


class WorkflowSandbox(Sandbox):
    built = True
    offered: ClassVar[Any] = {
        **dict.fromkeys(FILTERS | _MORE | OWN_FILTERS.keys()),
        "default": default_or_null,
        "d": default_or_null,
        "_each": entries,
    }

    def text_of(self, meter: Meter, value: Any) -> str:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
        return text_of(value, meter.max_chars, meter.tick)

    def json_of(self, meter: Meter, value: Any, indent: int | None) -> str:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()  # noqa: SLF001 - as above
        value = plain(value, meter.max_chars // _MAX_INDENTED if indent else meter.max_chars, meter.tick)
        return json_text(value, indent)

    def build(self, meter: Meter, value: Any) -> Any:
        """No value of exponential size, so that comparing and sorting are not either."""
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, Undefined):
                item._fail_with_undefined_error()  # noqa: SLF001 - as above
        weigh(value, _limit(meter), meter.tick)
        return meter.made(value)

    def sorting(self, meter: Meter, name: str, value: Any, attribute: Any) -> None:
        """Lists that begin alike take as long to compare as they are."""
        if isinstance(value, dict):
            keys = list(value.values())
        elif attribute is None:
            keys = value
        else:
            keys = [_at(item, path) for path in str(attribute).split(",") for item in value]
        compared = [key for key in keys if isinstance(key, list | tuple | dict)]
        if compared:
            try:
                weigh(compared, MAX_COMPARED, meter.tick)
            except TemplateFailed:
                raise TemplateFailed(f"{name} takes lists and objects of at most {MAX_COMPARED} characters") from None

    def sum_of(self, meter: Meter, left: Any, right: Any) -> Any:
        total = left + right
        if type(total) is list:
            weigh_sum(left, right, total, _limit(meter), meter.tick)
        elif not isinstance(total, str):
            weigh(total, _limit(meter), meter.tick)
        return meter.made(total)


def _at(item: Any, path: str) -> Any:
    for key in path.split("."):
        item = part_of(item, int(key) if key.isdecimal() else key)
    return item


def _limit(meter: Meter) -> int:
    return meter.max_value if isinstance(meter, ValueMeter) else meter.max_chars
