"""The one sandbox for templates: jinja2 with the limits on size and time that jinja2 itself does not have.

Whatever grows text or takes time is counted while a template renders: every printed expression (through `finalize`),
every loop iteration and macro call (through a print of the meter inserted into each body), every filter, call,
concatenation and comparison (see `pipeline.stages.sandbox_tree`). Nothing is reached but parts of JSON and the few
methods listed here: no attribute of a Python object is ever looked up by a name that a template gives.
"""

from collections.abc import Callable, Iterator, Mapping
from types import BuiltinMethodType, MethodType
from typing import Any, ClassVar

from jinja2 import TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.stages.sandbox_filters import (
    ATTRIBUTE_AT,
    COUNTING,
    FILTERS,
    MAX_SORTED,
    MAX_SPLIT,
    OWN_FILTERS,
    SORTING,
    SPLITTING,
)
from pipeline.stages.sandbox_meter import (
    UNPARSABLE,
    Meter,
    Missing,
    TemplateFailed,
    TemplateRefused,
    UnknownName,
    refusal,
)
from pipeline.stages.sandbox_parts import ABSENT, METHODS, Absent, follow, method_of, part_of, reference_of
from pipeline.stages.sandbox_tree import instrument, refuse

__all__ = ["UNPARSABLE", "Meter", "Sandbox", "TemplateFailed", "TemplateRefused", "UnknownName", "refusal"]

MAX_TOKENS = 5000  # of one template: compiling them takes some 0.1 s
_MAX_NUMBER = 10**12
_MAX_ATTRIBUTE = 256
_MAX_STRIPPED = 64


class Sandbox(ImmutableSandboxedEnvironment):
    """`built` offers lists and dicts made of variables, metered; without it only constant ones are. To be given the
    variable `_meter` at each rendering."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])
    built: ClassVar[bool] = False
    offered: ClassVar[Mapping[str, Callable[..., Any] | None]] = dict.fromkeys(FILTERS)  # None: jinja2's own

    def __init__(self) -> None:
        super().__init__(
            undefined=Missing,
            autoescape=False,  # the output is text for models, not HTML
            optimized=False,  # or constants would be computed, unmetered, while compiling
            finalize=_finalize,
            keep_trailing_newline=True,
        )
        jinja = dict(self.filters)
        self.filters = {
            name: _metered(name, own or OWN_FILTERS.get(name) or jinja[name]) for name, own in self.offered.items()
        }
        self.known_filters = frozenset(self.filters)
        self.known_tests = frozenset(self.tests)
        # The sandbox's own, which `instrument` puts in. Harmless to whoever calls them by `map`.
        self.filters |= {".": self._follow, "method": self._method, "own": _own}
        self.filters |= {"~": _concat, "[]": _built, "[:]": _slice, "tick": _tick}
        self.globals = {"range": self.globals["range"]}

    # Compiling.

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        refuse(tree, self.known_filters, self.known_tests, built=self.built)
        return self.instrumented(tree)

    def parsed(self, source: str) -> nodes.Template:
        """The tree as it is written, not yet safe to run: see `refuse` and `instrumented`."""
        return super()._parse(source, None, None)

    def instrumented(self, tree: nodes.Template) -> nodes.Template:
        instrument(tree)
        tree.set_environment(self)
        return tree

    def _tokenize(self, source: str, name: str | None, filename: str | None = None, state: str | None = None) -> Any:
        stream = super()._tokenize(source, name, filename, state)
        return TokenStream(_counted(stream), name, filename)

    # Rendering.

    def text_of(self, meter: Meter, value: Any) -> str:
        """A value as text. Not a list's: one that holds another several times is small, and its text need not be."""
        del meter
        if isinstance(value, str):
            return value
        if value is None or isinstance(value, bool | int | float):
            return str(value)
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
        raise TemplateFailed(f"a {type(value).__name__} cannot be printed: name the part of it that is meant")

    def _follow(self, root: Any, label: str, *keys: Any) -> Any:
        if isinstance(root, Undefined):
            return Missing(root._undefined_message, name=reference_of(label, keys))  # noqa: SLF001 - jinja2's own
        try:
            return follow(root, label, keys, methods=True)
        except Absent as absent:
            return Missing(str(absent), name=absent.reference)

    def _method(self, value: Any, name: str) -> Any:
        """`value.name` where it is called: an object's method, even if it has a field of that name."""
        if isinstance(value, Undefined):
            return value
        found = method_of(value, name)
        return self._follow(value, "(…)", name) if found is ABSENT else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Parts only, for the filters that take an attribute's name."""
        found = part_of(obj, argument)
        if found is ABSENT:
            return Missing(f"`{str(argument)[:100]}` is not in every item", name=str(argument)[:100])
        return found

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._follow(obj, "(…)", attribute)

    def wrap_str_format(self, value: Any) -> None:
        """No formatting either: a width is all it takes to make text of any size."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        del obj, value
        return attr in METHODS

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter: Meter = context["_meter"]
        meter.tick()
        if isinstance(obj, BuiltinMethodType | MethodType) and obj.__name__ in METHODS:
            return self._call_method(context, obj, args, kwargs)
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()  # noqa: SLF001 - as above
        if not (isinstance(obj, Macro | LoopContext) or obj is self.globals["range"]):
            raise TemplateFailed(f"a {type(obj).__name__} cannot be called in a template")
        return meter.made(context.call(obj, *args, **kwargs))  # type: ignore[arg-type]  # one that can be called

    def _call_method(self, context: Context, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        meter: Meter = context["_meter"]
        name, owner = method.__name__, method.__self__
        if name in ("join", "replace"):
            value = (args[0], owner, *args[1:]) if name == "join" and args else (owner, *args)
            return OWN_FILTERS[name](context, *value, **kwargs)
        if name.endswith("strip") and args and len(args[0] or "") > _MAX_STRIPPED:
            raise TemplateFailed(f"{name} takes at most {_MAX_STRIPPED} characters")
        _check_length(name, owner)
        result = method(*args, **kwargs)
        return meter.made(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter: Meter = context["_meter"]
        meter.tick()
        if operator == "%" and isinstance(left, str | bytes):
            raise TemplateFailed("text cannot be formatted with % in a template")
        if operator == "**" and not (abs(left) <= 1000 and abs(right) <= 4):
            raise TemplateFailed("a power this large is not computed in a template")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TemplateFailed("only numbers can be multiplied in a template")
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, type(left)):
            meter.fits(len(left) + len(right))
            return self.sum_of(meter, left, right)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int | float) and abs(result) > _MAX_NUMBER:
            raise TemplateFailed("a number this large is not computed in a template")
        return result

    def sum_of(self, meter: Meter, left: Any, right: Any) -> Any:
        return meter.made(left + right)

    def sorting(self, meter: Meter, name: str, value: Any, attribute: Any) -> None:
        """Items, or what they have at an attribute, are about to be compared with each other."""

    def build(self, meter: Meter, value: Any) -> Any:
        """A list or dict that a template wrote down."""
        return meter.made(value)


def _counted(stream: TokenStream) -> Iterator[Token]:
    for count, token in enumerate(stream):
        if count >= MAX_TOKENS:
            raise TemplateSyntaxError(f"the template has more than {MAX_TOKENS} words and signs", token.lineno)
        yield token


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the clock, whose lazy results do so at each item, and whose others are counted."""
    passed = getattr(function, "jinja_pass_arg", None)
    before: Callable[[Context], tuple[Any, ...]] = {
        None: lambda _: (),
        "context": lambda context: (context,),
        "eval_context": lambda context: (context.eval_ctx,),
        "environment": lambda context: (context.environment,),
    }[getattr(passed, "name", None)]
    at = ATTRIBUTE_AT.get(name)

    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter: Meter = context["_meter"]
        meter.tick()
        attribute = args[at] if at is not None and at < len(args) else kwargs.get("attribute")
        if isinstance(attribute, str) and len(attribute) > _MAX_ATTRIBUTE:
            raise TemplateFailed(f"an attribute's name of more than {_MAX_ATTRIBUTE} characters")
        result = function(*before(context), _measured(context, name, value, attribute), *args, **kwargs)
        if isinstance(result, Iterator):
            return meter.each(result)
        return meter.made(result)

    return metered


def _measured(context: Context, name: str, value: Any, attribute: Any) -> Any:
    """What a filter is given: no more than it can look at in good time."""
    _check_length(name, value)
    if name in COUNTING and isinstance(value, list | tuple | range):
        return context["_meter"].each(iter(value))
    if name not in SORTING or isinstance(value, Undefined):
        return value
    if isinstance(value, Iterator):
        value = list(value)
    keys = 1 + sum(map(str(attribute).count, ",."))
    if hasattr(value, "__len__") and len(value) * keys > MAX_SORTED:
        raise TemplateFailed(f"{name} takes at most {MAX_SORTED // keys} items")
    environment: Sandbox = context.environment  # type: ignore[assignment]  # made by no other
    environment.sorting(context["_meter"], name, value, attribute)
    return value


def _check_length(name: str, value: Any) -> None:
    if name in SPLITTING and isinstance(value, str) and len(value) > MAX_SPLIT:
        raise TemplateFailed(f"{name} takes at most {MAX_SPLIT} characters")


def _own(item: Any, name: str, outer: Any) -> Any:
    found = part_of(item, name) if isinstance(item, Mapping) else ABSENT
    return outer if found is ABSENT else found


@pass_context
def _tick(context: Context, value: Any) -> Any:
    context["_meter"].tick()
    return value


@pass_context
def _concat(context: Context, *parts: Any) -> str:
    return OWN_FILTERS["join"](context, parts)  # type: ignore[no-any-return]  # text


@pass_context
def _built(context: Context, value: Any) -> Any:
    environment: Sandbox = context.environment  # type: ignore[assignment]  # made by no other
    return environment.build(context["_meter"], value)


@pass_context
def _slice(context: Context, value: Any, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - as above
    if not isinstance(value, str | list | tuple | range):
        raise TemplateFailed(f"a {type(value).__name__} cannot be sliced")
    return context["_meter"].made(value[start:stop:step])


@pass_context
def _finalize(context: Context, value: Any) -> str:
    meter: Meter = context["_meter"]
    if value is meter:
        meter.step()
        return ""
    environment: Sandbox = context.environment  # type: ignore[assignment]  # made by no other
    text = environment.text_of(meter, value)
    meter.printed(text)
    return text
