"""A tree against the structs of `definition`, key by key, so that every problem is found and not only the first.

msgspec says no more than what is wrong first: it is asked before, and this goes through a tree only where it refuses.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from config.paths import nearest, quote
from config.shape import Leaf, bare, describe, fits, keys, leaves, listed, suggested, variants
from pipeline.workflow.definition import CustomStep, Definition
from pipeline.workflow.flat import BUILT_IN, Flat
from pipeline.workflow.gaps import Gaps, stand_in
from pipeline.workflow.markup import MAX_FOUND, Path, Wrong, shown
from pipeline.workflow.structure_types import (
    article,
    custom,
    described,
    every_step,
    is_step,
    nullable,
    owners,
    root,
)

_BAD: Any = object()  # in place of what cannot be used
_NULL = "null"
_HINTS = 200  # for one definition; each costs up to a millisecond
# Where one of these is wrong, names that others refer to may be missing.
_NAMING = frozenset("id output as accumulator variables inputs".split())
_SOMETHING = "inputs"  # an expression of which nothing is known, in place of one that could not be read


def defined(
    flat: Flat, kinds: Collection[str] | None, written: Mapping[Path, str]
) -> tuple[Definition | None, list[Wrong], Gaps]:
    """The definition, and what is wrong with the tree. It is there as well where what is wrong could be left out, which
    the gaps tell: for checks that go on. `written`: how scalars are written, by their path in the text, where that says
    more than their value."""
    known = all(_is_custom(steps[index], kinds) for steps, index, _ in flat.customs)
    if known and not flat.problems:
        try:
            return _converted(flat), [], Gaps()
        except (msgspec.ValidationError, OverflowError):
            pass
    walk = _Walk(flat, kinds, written)
    tree = walk.visit(root(), flat.tree, ())
    problems = [*flat.problems, *walk.problems]
    if tree is _BAD:
        return None, problems, walk.gaps
    if flat.short and tree.get("inputs"):
        tree["inputs"] = _without(tree["inputs"], [problem.path for problem in flat.problems])
    try:
        return _converted(Flat(tree)), problems, walk.gaps
    except (msgspec.ValidationError, OverflowError) as error:  # what the walk did not see
        return None, problems or [Wrong(str(error))], walk.gaps


def _without(inputs: dict[str, Any], wrong: list[Path]) -> dict[str, Any]:
    """With any value allowed for inputs whose schema could not be read."""
    known = inputs["properties"]
    unread = {str(path[1]): True for path in wrong if path[0] == "inputs" and path[1] in known}
    return {**inputs, "properties": {**known, **unread}}


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


class _Walk:
    """`gaps`: what is left out, or replaced by something that nothing is known of."""

    def __init__(self, flat: Flat, kinds: Collection[str] | None, written: Mapping[Path, str]) -> None:
        self.problems: list[Wrong] = []
        self.gaps = Gaps()
        self._flat = flat
        self._kinds = kinds
        self._written = written
        self._hints = _HINTS
        self._unread = 0
        self._wrong = {problem.path for problem in flat.problems}
        for path in self._wrong:
            self.gaps.add(path)

    def visit(self, info: inspect.Type, raw: Any, path: Path) -> Any:
        """The value with what is wrong left out, or _BAD."""
        kind = bare(info)[0]
        if isinstance(kind, inspect.AnyType) or (raw is None and nullable(info)):
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
        for index, one in enumerate(elements):
            if one is _BAD:
                elements[index] = self._instead_of(kind.item_type, (*path, index))
        return _BAD if any(one is _BAD for one in elements) else elements

    def _instead_of(self, info: inspect.Type, path: Path) -> Any:
        """For an element that cannot be left out: those after it would have other places."""
        if is_step(info):
            self.gaps.any_name = True
            return self._stand_in({}, path)
        kind = bare(info)[0]
        if not isinstance(kind, inspect.StructType):
            return _BAD
        self.gaps.add(path)
        fillers = {field.encode_name: self._filler(field) for field in kind.fields if field.required}
        return _BAD if any(one is _BAD for one in fillers.values()) else fillers

    def _entries(self, kind: inspect.DictType, raw: dict[str, Any], path: Path) -> dict[str, Any]:
        entries = {}
        for key, value in raw.items():
            taken = self.visit(kind.value_type, value, (*path, key))
            if fits(key, bare(kind.key_type)[0]):  # type: ignore[arg-type]
                entries[key] = taken
            else:
                self._add(Wrong(f"the key {shown(key)}: expected {describe(kind.key_type)}", "", (*path, key)))
        return {key: value for key, value in entries.items() if value is not _BAD}

    def _step(self, info: inspect.Type, raw: dict[str, Any], path: Path) -> Any:
        known = variants(info)  # type: ignore[arg-type]
        kind = raw.get("type")
        if not (isinstance(kind, str) and (kind in known or _is_custom(raw, self._kinds))):
            kind = self._no_type(raw, path)
            self.gaps.add((*path, "type"))
        if not kind:
            common = {
                key: self._field(field, raw[key], (*path, key)) for key, field in every_step().items() if key in raw
            }
            self._lost(raw)
            return self._stand_in(common, path)
        tree, whole = self._taken(known.get(kind) or custom(), raw, path, kind)
        return tree if whole else self._stand_in(tree, path)

    def _lost(self, raw: dict[str, Any]) -> None:
        """What stands inside of a step of no known type is not looked into: its names are not known."""
        if any(raw.get(key) for key in ("steps", "cases", "default")):
            self.gaps.any_name = True
        for key in raw.keys() - every_step().keys() - {"type"}:
            self.gaps.lose(raw[key])

    def _stand_in(self, tree: dict[str, Any], path: Path) -> dict[str, Any]:
        self._unread += 1
        self.gaps.step(path)
        common = {key: value for key, value in tree.items() if key in every_step() and value is not _BAD}
        return stand_in(self._unread, common)

    def _no_type(self, raw: dict[str, Any], path: Path) -> str:
        """The type that was probably meant."""
        every = [*BUILT_IN, *sorted(self._kinds or ())]
        if "type" in raw:
            kind = raw["type"]
            message = f"found {shown(kind)}, expected a type of step: one of {', '.join(every)}"
            meant = self._nearest(kind, every) if isinstance(kind, str) else ""
            self._add(Wrong(message, f"did you mean {meant}?" if meant else "", (*path, "type")))
            return meant
        key = self._nearest("type", raw.keys() - every_step().keys())
        message = f"type is missing: one of {', '.join(every)}"
        self._add(Wrong(message, f"did you mean type where it says {shown(key)}?" if key else "", (*path, "type")))
        return ""

    def _struct(self, info: inspect.StructType, raw: dict[str, Any], path: Path) -> Any:
        tree, whole = self._taken(info, raw, path)
        return tree if whole else _BAD

    def _taken(
        self, info: inspect.StructType, raw: dict[str, Any], path: Path, kind: str = ""
    ) -> tuple[dict[str, Any], bool]:
        """What could be read, and whether that is enough."""
        tree: dict[str, Any] = {"type": kind} if kind else {}
        known = {field.encode_name: field for field in info.fields}
        for key, value in raw.items():
            if key in known:
                tree[key] = self._field(known[key], value, (*path, key))
            elif key != info.tag_field:
                meant = self._unknown(info, key, path, kind)
                if meant in known and meant not in raw:
                    tree[meant] = self._field(known[meant], value, (*path, key))
                else:
                    self.gaps.lose(value)
                    self.gaps.add(path, (*known, "type"))
        for field in known.values():
            if field.required and tree.get(field.encode_name, _BAD) is _BAD:
                self._fill(tree, field, path, (*known, "type"))
        taken = {key: value for key, value in tree.items() if value is not _BAD}
        return taken, all(key in taken for key, field in known.items() if field.required)

    def _fill(self, tree: dict[str, Any], field: inspect.Field, path: Path, known: tuple[str, ...]) -> None:
        key = field.encode_name
        if key not in tree:
            self._add(Wrong(f"{key} is missing: {described(field.type)}", "", (*path, key)))
            self.gaps.any_name = self.gaps.any_name or key == "id"
        self.gaps.add(path, tuple(one for one in known if one != key))
        tree[key] = self._filler(field)

    def _filler(self, field: inspect.Field) -> Any:
        """A value that fits, and of which no more is known than of one that could not be read; else _BAD."""
        kind = bare(field.type)[0]
        if isinstance(kind, inspect.AnyType):
            return None
        if isinstance(kind, inspect.LiteralType):
            return kind.values[0]
        if field.encode_name == "when":
            return _SOMETHING
        if field.encode_name in {"id", "name"}:
            self._unread += 1
            return f"unread_{self._unread}"
        return _BAD

    def _field(self, field: inspect.Field, value: Any, path: Path) -> Any:
        taken = _BAD if path in self._wrong else self.visit(field.type, value, path)
        if taken is _BAD:
            self.gaps.add(path)
            self._unnamed(field.encode_name, value)
        return taken

    def _unnamed(self, key: str, value: Any) -> None:
        """What a key that is left out may have named."""
        gaps = self.gaps
        if key in _NAMING:
            gaps.lose(value)
        gaps.any_name = gaps.any_name or (key == "id" and not isinstance(value, str))
        gaps.any_name = gaps.any_name or (key in {"steps", "cases"} and bool(value))
        gaps.any_input = gaps.any_input or key == "inputs"

    def _unknown(self, info: inspect.StructType, key: str, path: Path, kind: str) -> str:
        """The known key that was probably meant."""
        if len(self.problems) > MAX_FOUND:
            return ""
        meant = self._nearest(key, keys(info))
        what = f"{kind} step" if kind else "workflow" if info.cls is Definition else info.cls.__name__.lower()
        message = f"{article(what)} {what} has no key {shown(key)}"
        if not meant:
            others = [] if kind not in BUILT_IN else owners(key)
            message += f": that is a key of {' and '.join(others)}" if others else f": it has {listed(info)}"
        self._add(Wrong(message, f"did you mean {meant}?" if meant else "", (*path, key)), key=True)
        return meant

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
    return step["type"] in kinds if kinds is not None else step.keys() <= {"type", "options", *every_step()}
