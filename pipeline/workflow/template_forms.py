"""What values with templates are compiled to, and how each is filled in."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Template, Undefined, nodes
from jinja2.exceptions import UndefinedError

from pipeline.stages.sandbox import TemplateFailed, UnknownName
from pipeline.stages.sandbox_parts import Absent, follow, reference_of
from pipeline.workflow.ports import Names
from pipeline.workflow.template_paths import Key
from pipeline.workflow.template_sandbox import ValueMeter, WorkflowSandbox
from pipeline.workflow.template_values import plain, text_of

Path = tuple[str, ...]
SANDBOX = WorkflowSandbox()
_AS_IT_IS = frozenset([str, int, float, bool, type(None), dict, list])


class Limits:
    """Of one rendering: characters printed, seconds taken, and characters (as JSON) of a value that is not text."""

    __slots__ = ("max_chars", "max_value", "timeout")

    def __init__(self, max_chars: int = 1_000_000, timeout: float = 1.0, max_value: int = 16_777_216) -> None:
        self.max_chars = max_chars
        self.timeout = timeout
        self.max_value = max_value

    def less(self, seconds: float) -> "Limits":
        """What is left when others have taken so many seconds of it."""
        return Limits(self.max_chars, self.timeout - seconds, self.max_value) if seconds > 0.0 else self


_LIMITS = Limits()


class Failed(Exception):
    """A rendering failed: an undefined name (it is named), a limit, a type. `reference` is the name where it is one."""

    def __init__(self, message: str, reference: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reference = reference


class Compiled:
    """A value with templates in it.

    `references`: every variable that it may read, as paths: ("steps", "draft", "text"), ("topic",), indices as digits;
    parts that are not constant end the path. Names that it binds itself (loop variables, `set`) are not among them.
    `optional`: more of them, that need not be there: what `default` or `is defined` is asked of, and names in
    `{{#each}}` that may be fields of the item.
    """

    __slots__ = ("optional", "references")

    def __init__(self, references: Sequence[Path], optional: Sequence[Path] = ()) -> None:
        self.references: Sequence[Path] = references
        self.optional: Sequence[Path] = optional

    def render(self, names: Names, local: Mapping[str, Any] | None = None, limits: Limits | None = None) -> Any:
        """The value: JSON types. It may share parts with the variables: neither is to be changed. Raises `Failed`."""
        limits = limits or _LIMITS
        meter = ValueMeter(limits.max_chars, limits.timeout, limits.max_value)
        try:
            return self.fill(names, local, meter)
        except TemplateFailed as error:
            raise Failed(str(error), error.reference) from error
        except Absent as error:
            raise Failed(str(error), error.reference) from error

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        raise NotImplementedError

    def prepare(self) -> bool:
        """Makes the next part of it ready to be filled in, which else happens then, and may take 0.1 s. False: there
        was nothing left to be done."""
        return False


def looked_up(names: Names, local: Mapping[str, Any] | None, name: str) -> Any:
    """Raises KeyError."""
    if local is not None and name in local:
        return local[name]
    return names.lookup(name)


def part(names: Names, local: Mapping[str, Any] | None, root: str, keys: tuple[Key, ...]) -> Any:
    try:
        value = looked_up(names, local, root)
    except KeyError:
        raise Absent(f"`{root}` is not known here", reference_of(root, keys)) from None
    return follow(value, root, keys)


class Reference(Compiled):
    """One whole `{{ steps.draft.text }}`: the value itself."""

    __slots__ = ("_keys", "_root")

    def __init__(self, root: str, keys: tuple[Key, ...]) -> None:
        super().__init__(((root, *map(str, keys)),))
        self._root = root
        self._keys = keys

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        value = part(names, local, self._root, self._keys)
        if type(value) in _AS_IT_IS:
            return value
        return plain(value, meter.max_value, meter.tick)


class Text(Compiled):
    """Text with references in it: `parts` are texts and references in turn."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[str | tuple[str, tuple[Key, ...]]]) -> None:
        paths = [(p[0], *map(str, p[1])) for p in parts if p.__class__ is not str]
        super().__init__(tuple(dict.fromkeys(paths)))
        self._parts = tuple(parts)

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        texts: list[str] = []
        size = 0
        for item in self._parts:
            text = item if isinstance(item, str) else text_of(part(names, local, *item), meter.max_chars, meter.tick)
            size += len(text)
            meter.fits(size)
            texts.append(text)
        return "".join(texts)


class Jinja(Compiled):
    """Anything else. `whole`: the value of the variable `result`, else the text. Python code is made of it when it is
    first filled in: most of a large workflow's templates never are in a process that only checks it. `tree` gives the
    syntax tree anew, to be changed: kept, thousands of them would take more room than all else."""

    __slots__ = ("_names", "_template", "_tree", "_whole")

    def __init__(
        self,
        tree: Callable[[], nodes.Template],
        references: Sequence[Path],
        optional: Sequence[Path],
        *,
        whole: bool,
    ) -> None:
        super().__init__(references, optional)
        self._names = tuple({path[0] for path in (*references, *optional)})
        self._tree = tree
        self._template: Template | None = None
        self._whole = whole

    def compiled(self) -> Template:
        """May be called in several threads: each makes the same."""
        template = self._template
        if template is None:
            code = SANDBOX.compile(SANDBOX.instrumented(self._tree()))
            template = self._template = Template.from_code(SANDBOX, code, SANDBOX.globals)
        return template

    def prepare(self) -> bool:
        if self._template is not None:
            return False
        self.compiled()
        return True

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        variables: dict[str, Any] = {"_meter": meter}
        for name in self._names:
            try:
                variables[name] = looked_up(names, local, name)
            except KeyError:
                continue  # an error only where it is used
        try:
            return self._filled(variables, meter)
        except (TemplateFailed, Absent):
            raise
        except Exception as error:
            raise failure(error) from error

    def _filled(self, variables: dict[str, Any], meter: ValueMeter) -> Any:
        if self._whole:
            return whole_of(self.result(variables), meter)
        template = self._compiled(meter)
        text = "".join(template.root_render_func(template.new_context(variables)))
        meter.fits(len(text))
        return text

    def _compiled(self, meter: ValueMeter) -> Template:
        if self._template is None:
            since = time.monotonic()
            self.compiled()
            meter.stop_clock(time.monotonic() - since)
        return self.compiled()

    def result(self, variables: dict[str, Any]) -> Any:
        """The value, where it is one expression; it may be undefined. Raises what jinja2 and its filters do."""
        template = self._compiled(variables["_meter"])
        context = template.new_context(variables)
        for _ in template.root_render_func(context):
            pass
        return context.vars["result"]


def whole_of(value: Any, meter: ValueMeter) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - jinja2's own way to say which name it was
    return plain(value, meter.max_value, meter.tick)


def failure(error: Exception) -> TemplateFailed:
    """What ended a rendering, in words."""
    if isinstance(error, UnknownName):
        return TemplateFailed(error.message or "", error.reference)
    if isinstance(error, UndefinedError):
        return TemplateFailed(error.message or str(error))
    if isinstance(error, RecursionError):
        return TemplateFailed("the template calls itself too often")
    return TemplateFailed(f"the template failed: {_told(error)}")


def _told(error: Exception) -> str:
    return str(error)[:300] or type(error).__name__


class Composite(Compiled):
    """A list or an object with templates somewhere in it. What has none is not copied."""

    __slots__ = ("_shape", "_unprepared")

    def __init__(self, shape: list[Any] | dict[str, Any], inside: Sequence[Compiled]) -> None:
        references = dict.fromkeys(path for one in inside for path in one.references)
        optional = dict.fromkeys(path for one in inside for path in one.optional if path not in references)
        super().__init__(tuple(references), tuple(optional))
        self._shape = shape
        self._unprepared = list(reversed(inside))

    def prepare(self) -> bool:
        while self._unprepared:
            if self._unprepared[-1].prepare():
                return True
            self._unprepared.pop()
        return False

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        shape = self._shape
        if isinstance(shape, dict):
            return {
                key: one.fill(names, local, meter) if isinstance(one, Compiled) else one for key, one in shape.items()
            }
        return [one.fill(names, local, meter) if isinstance(one, Compiled) else one for one in shape]
