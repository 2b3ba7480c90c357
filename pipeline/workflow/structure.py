"""A tree against the structs of `definition`, key by key, so that every problem is found and not only the first.

msgspec says no more than what is wrong first: it is asked before, and this goes through a tree only where it refuses.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from config.paths import nearest, quote
from config.shape import Leaf, bare, describe, fits, keys, leaves, listed, of, suggested, variants
from pipeline.workflow.definition import CustomStep, Definition, Step
from pipeline.workflow.flat import BUILT_IN, Flat
from pipeline.workflow.markup import MAX_FOUND, Path, Wrong, shown

_BAD: Any = object()  # in place of what cannot be used
_NULL = "null"
_HINTS = 200  # for one definition; each costs up to a millisecond
# Where one of these is wrong, names that others refer to are missing: what else is found may not be wrong at all.
_NAMING = frozenset("id type output as accumulator variables depends_on steps cases inputs outputs then".split())


def defined(
    flat: Flat, kinds: Collection[str] | None, written: Mapping[Path, str]
) -> tuple[Definition | None, list[Wrong]]:
    """The definition, and what is wrong with the tree. It is there as well where all that is wrong could be left out
    without making anything else wrong: for checks that go on. `written`: how scalars are written, by their path in the
    text, where that says more than their value."""
    known = all(_is_custom(steps[index], kinds) for steps, index, _ in flat.customs)
    if known and not flat.problems:
        try:
            return _converted(flat), []
        except (msgspec.ValidationError, OverflowError):
            pass
    walk = _Walk(flat, kinds, written)
    tree = walk.visit(_root(), flat.tree, ())
    problems = [*flat.problems, *walk.problems]
    if walk.broken or flat.problems:
        return None, problems
    try:
        return _converted(Flat(tree)), problems
    except (msgspec.ValidationError, OverflowError) as error:  # what the walk did not see
        return None, problems or [Wrong(str(error))]


def _converted(flat: Flat) -> Definition:
    """Custom types are no part of the union of steps: others stand in for them on the way."""
    if not flat.customs:
        return msgspec.convert(flat.tree, Definition)
    customs = [(path, steps, index, steps[index]) for steps, index, path in flat.customs]
    converted = [msgspec.convert(step, CustomStep) for *_, step in customs]
    try:
        for _, steps, index, _ in customs:
            steps[index] = {"type": "wait", "id": "stands_in"}
        definition = msgspec.convert(flat.tree, Definition)
    finally:
        for _, steps, index, step in customs:
            steps[index] = step
    for (path, *_), step in zip(customs, converted, strict=True):
        beside: Any = definition
        for part in path[:-1]:
            beside = getattr(beside, part) if isinstance(part, str) else beside[part]
        beside[path[-1]] = step
    return definition


@cache
def _root() -> inspect.StructType:
    return of(Definition)


@cache
def _custom() -> inspect.StructType:
    return of(CustomStep)


class _Walk:
    """`broken`: something is wrong that others depend on, so that no definition can be made for them to look at."""

    def __init__(self, flat: Flat, kinds: Collection[str] | None, written: Mapping[Path, str]) -> None:
        self.problems: list[Wrong] = []
        self.broken = False
        self._flat = flat
        self._kinds = kinds
        self._written = written
        self._hints = _HINTS

    def visit(self, info: inspect.Type, raw: Any, path: Path) -> Any:
        """The value with what is wrong left out, or _BAD."""
        kind = bare(info)[0]
        if isinstance(kind, inspect.AnyType) or (raw is None and _nullable(info)):
            return raw
        if (choice := leaves(kind)) and not isinstance(raw, dict | list):
            return self._leaf(info, choice, raw, path)
        members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
        if isinstance(raw, dict):
            return self._dict(info, members, raw, path)
        if isinstance(raw, list):
            found = next((one for one in members if isinstance(one, inspect.ListType)), None)
            return self._mismatch(info, raw, path) if found is None else self._list(info, found, raw, path)
        plain = tuple(leaf for one in members for leaf in leaves(one))
        return self._leaf(info, plain, raw, path) if plain else self._mismatch(info, raw, path)

    def _dict(self, info: inspect.Type, members: Sequence[inspect.Type], raw: dict[str, Any], path: Path) -> Any:
        if any(isinstance(one, inspect.StructType) and one.tag for one in members):
            return self._step(info, raw, path)
        for one in members:
            if isinstance(one, inspect.StructType):
                return self._struct(one, raw, path)
            if isinstance(one, inspect.DictType):
                return self._entries(one, raw, path)
        return self._mismatch(info, raw, path)

    def _leaf(self, info: inspect.Type, choice: tuple[Leaf, ...], raw: Any, path: Path) -> Any:
        if any(fits(raw, kind) for kind in choice):
            return raw
        return self._mismatch(info, raw, path, self._meant(choice, raw, path))

    def _meant(self, choice: tuple[Leaf, ...], raw: Any, path: Path) -> str:
        """What was probably meant: as it is written, where a text is wanted and a number was found."""
        if raw is None:
            return ""
        if any(isinstance(one, inspect.StrType) for one in choice) and not isinstance(raw, str):
            text = self._written.get(self._flat.written(path), "") or suggested(raw, choice).strip('"')
            return quote(text) if text and any(fits(text, one) for one in choice) else ""
        if self._hints:
            self._hints -= 1
            return suggested(raw, choice)
        return ""

    def _list(self, info: inspect.Type, kind: inspect.ListType, raw: list[Any], path: Path) -> Any:
        if len(raw) < (kind.min_length or 0):
            return self._mismatch(info, raw, path)
        elements = [self.visit(kind.item_type, one, (*path, index)) for index, one in enumerate(raw)]
        if any(one is _BAD for one in elements):
            self.broken = True
        return elements

    def _entries(self, kind: inspect.DictType, raw: dict[str, Any], path: Path) -> dict[str, Any]:
        entries = {}
        for key, value in raw.items():
            if not fits(key, bare(kind.key_type)[0]):  # type: ignore[arg-type]
                self.broken = True
                self._add(Wrong(f"the key {shown(key)}: expected {describe(kind.key_type)}", "", (*path, key)))
            entries[key] = self.visit(kind.value_type, value, (*path, key))
        return {key: value for key, value in entries.items() if value is not _BAD}

    def _step(self, info: inspect.Type, raw: dict[str, Any], path: Path) -> Any:
        known = variants(info)  # type: ignore[arg-type]
        kind = raw.get("type")
        if isinstance(kind, str) and kind in known:
            return self._struct(known[kind], raw, path, kind)
        if isinstance(kind, str) and _is_custom(raw, self._kinds):
            return self._struct(_custom(), raw, path, kind)
        self.broken = True
        self._no_type(raw, path)
        for key, field in _every().items():
            if key in raw:
                self._field(field, raw[key], (*path, key))
        return _BAD

    def _no_type(self, raw: dict[str, Any], path: Path) -> None:
        every = [*BUILT_IN, *sorted(self._kinds or ())]
        if "type" in raw:
            kind = raw["type"]
            message = f"found {shown(kind)}, expected a type of step: one of {', '.join(every)}"
            self._add(Wrong(message, self._near(kind, every) if isinstance(kind, str) else "", (*path, "type")))
            return
        meant = self._nearest("type", raw.keys() - _every().keys())
        message = f"type is missing: one of {', '.join(every)}"
        self._add(Wrong(message, f"did you mean type where it says {shown(meant)}?" if meant else "", (*path, "type")))

    def _struct(self, info: inspect.StructType, raw: dict[str, Any], path: Path, kind: str = "") -> Any:
        tree: dict[str, Any] = {"type": kind} if kind else {}
        known = {field.encode_name: field for field in info.fields}
        for key, value in raw.items():
            if key in known:
                tree[key] = self._field(known[key], value, (*path, key))
            elif key != info.tag_field:
                meant = self._unknown(info, key, path, kind)
                if meant in known and meant not in raw:
                    tree[meant] = self._field(known[meant], value, (*path, key))
        for key, field in known.items():
            if field.required and key not in tree:
                self.broken = True
                self._add(Wrong(f"{key} is missing: {described(field.type)}", "", (*path, key)))
        return {key: value for key, value in tree.items() if value is not _BAD}

    def _field(self, field: inspect.Field, value: Any, path: Path) -> Any:
        taken = self.visit(field.type, value, path)
        if taken is _BAD and (field.required or field.encode_name in _NAMING):
            self.broken = True
        return taken

    def _unknown(self, info: inspect.StructType, key: str, path: Path, kind: str) -> str:
        """The known key that was probably meant."""
        if len(self.problems) > MAX_FOUND:
            self.broken = True
            return ""
        meant = self._nearest(key, keys(info))
        self.broken = self.broken or not meant
        what = f"{kind} step" if kind else "workflow" if info.cls is Definition else info.cls.__name__.lower()
        message = f"{_article(what)} {what} has no key {shown(key)}"
        if not meant:
            others = [] if kind not in BUILT_IN else _owners(key)
            message += f": that is a key of {' and '.join(others)}" if others else f": it has {listed(info)}"
        self._add(Wrong(message, f"did you mean {meant}?" if meant else "", (*path, key)), key=True)
        return meant

    def _near(self, name: str, known: Collection[str]) -> str:
        meant = self._nearest(name, known)
        return f"did you mean {meant}?" if meant else ""

    def _nearest(self, name: str, known: Collection[str]) -> str:
        if not self._hints:
            return ""
        self._hints -= 1
        return nearest(name, known)

    def _mismatch(self, info: inspect.Type, raw: Any, path: Path, meant: str = "") -> Any:
        hint = f"did you mean {meant}?" if meant else ""
        self._add(Wrong(f"found {shown(raw)}, expected {described(info)}", hint, path))
        return _BAD

    def _add(self, wrong: Wrong, *, key: bool = False) -> None:
        wrong.key = key
        if len(self.problems) <= MAX_FOUND:
            self.problems.append(wrong)


def _is_custom(step: dict[str, Any], kinds: Collection[str] | None) -> bool:
    """Where the custom types are not known: whether it has no other keys than they have."""
    return step["type"] in kinds if kinds is not None else step.keys() <= {"type", "options", *_every()}


def _nullable(info: inspect.Type) -> bool:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return isinstance(info, inspect.UnionType) and info.includes_none


@cache
def _every() -> dict[str, inspect.Field]:
    """What steps of every type have."""
    return {field.encode_name: field for field in of(Step).fields}


@cache
def _owners(key: str) -> list[str]:
    """The types of step that have such a key."""
    found = [tag for tag, one in variants(_steps()).items() if key in keys(one)]
    return [] if len(found) == len(BUILT_IN) else [f"{tag} steps" for tag in found]


@cache
def _steps() -> inspect.UnionType:
    steps = next(field.type for field in _root().fields if field.name == "steps")
    kind = bare(steps)[0]
    item = kind.item_type if isinstance(kind, inspect.ListType) else kind
    if not isinstance(item, inspect.UnionType):
        raise TypeError("a definition has a list of steps")
    return item


def described(info: inspect.Type) -> str:
    """What the type takes, in words."""
    kind, said = bare(info)
    if said:
        return said
    if isinstance(kind, inspect.AnyType):
        return "any value"
    if leaves(kind):
        return describe(kind)
    if isinstance(kind, inspect.ListType):
        return f"a list of {_several(kind.item_type)}" + (f", at least {kind.min_length}" if kind.min_length else "")
    if isinstance(kind, inspect.UnionType) and not any(isinstance(one, inspect.StructType) for one in kind.types):
        return " or ".join(described(one) for one in kind.types)
    return "a mapping"


def _several(info: inspect.Type) -> str:
    kind, said = bare(info)
    if said:
        return said.replace("an identifier:", "identifiers:")
    if isinstance(kind, inspect.UnionType):
        return "steps"
    return {inspect.StrType: "texts", inspect.IntType: "whole numbers"}.get(type(kind), "mappings")


def _article(what: str) -> str:
    return "an" if what[0] in "aeiou" or what.startswith("llm") else "a"
