"""Which variables a template reads, found in its syntax tree, with jinja2's own scoping."""

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes

from pipeline.stages.sandbox_parts import METHODS
from pipeline.stages.sandbox_tree import key_of, own_name

Path = tuple[str, ...]
ROOTS = frozenset(["inputs", "input", "steps", "outputs"])  # always the run's
_GLOBAL = frozenset(["range"])
_OF_MACROS = frozenset(["caller", "varargs", "kwargs"])
_CHAINS = (nodes.Name, nodes.Getattr, nodes.Getitem)


class Reading:
    """`needed`: paths that must lead somewhere. `optional`: those under `default` and `is defined`, and bare names in
    `{{#each}}`, which may be the item's."""

    def __init__(self, tree: nodes.Node) -> None:
        self._needed: dict[Path, None] = {}
        self._optional: dict[Path, None] = {}
        self._visit(tree, set())

    @property
    def needed(self) -> tuple[Path, ...]:
        return tuple(self._needed)

    @property
    def optional(self) -> tuple[Path, ...]:
        return tuple(path for path in self._optional if path not in self._needed)

    def _visit(self, node: nodes.Node, bound: set[str]) -> None:
        """`bound`: names that the template has given values itself. What it binds here is added."""
        special = getattr(self, f"_in_{type(node).__name__.lower()}", None)
        if special is not None:
            special(node, bound)
        elif isinstance(node, _CHAINS):
            self._chain(node, bound, self._needed)
        else:
            self._all(node.iter_child_nodes(), bound)

    def _all(self, found: Iterable[nodes.Node], bound: set[str]) -> None:
        for node in found:
            self._visit(node, bound)

    def _chain(self, node: nodes.Node, bound: set[str], into: dict[Path, None], cut: int = 0) -> None:
        keys: list[nodes.Expr] = []
        while (key := key_of(node)) is not None:
            keys.insert(0, key)
            node = node.node  # type: ignore[attr-defined]  # what has a key has a node
        self._all((key for key in keys if not isinstance(key, nodes.Const)), bound)
        if not isinstance(node, nodes.Name):
            if isinstance(node, nodes.Getitem):  # of a slice
                self._all(node.iter_child_nodes(), bound)
            else:
                self._visit(node, bound)
        elif node.ctx == "load" and node.name not in bound and node.name not in _GLOBAL:
            self._free(node, bound)
            level, name = own_name(node.name)
            if name in bound:  # `this`
                return
            into = self._optional if level else into
            into[_path(name, keys[: len(keys) - cut])] = None

    def _free(self, node: nodes.Name, bound: set[str]) -> None:
        """A bare name in `{{#each}}` is the item's, if it has it. The tree is told so."""
        level, name = own_name(node.name)
        if level == 0 and node.name == name:
            level = max((int(one[5:]) for one in bound if one.startswith("_this")), default=0)
        if level and name == "this":
            node.name = f"_this{level}"
        else:
            node.name = f"_up{level}_{name}" if level and name not in ROOTS else name

    def _in_call(self, node: nodes.Call, bound: set[str]) -> None:
        if isinstance(node.node, nodes.Getattr) and node.node.attr in METHODS:
            self._chain(node.node, bound, self._needed, cut=1)
        else:
            self._visit(node.node, bound)
        self._all((child for child in node.iter_child_nodes(exclude=["node"])), bound)

    def _in_filter(self, node: nodes.Filter, bound: set[str]) -> None:
        if node.name in ("default", "d") and isinstance(node.node, _CHAINS):
            self._chain(node.node, bound, self._optional)
            self._all(node.iter_child_nodes(exclude=["node"]), bound)
        else:
            self._all(node.iter_child_nodes(), bound)

    def _in_test(self, node: nodes.Test, bound: set[str]) -> None:
        if node.name in ("defined", "undefined") and isinstance(node.node, _CHAINS):
            self._chain(node.node, bound, self._optional)
        else:
            self._all(node.iter_child_nodes(), bound)

    def _in_for(self, node: nodes.For, bound: set[str]) -> None:
        self._visit(node.iter, bound)
        inside = bound | _stored(node.target)
        if node.test is not None:
            self._visit(node.test, set(inside))
        self._all(node.body, inside | {"loop"})
        self._all(node.else_, set(bound))

    def _in_if(self, node: nodes.If, bound: set[str]) -> None:
        """Bound afterwards is what every way through binds."""
        self._visit(node.test, bound)
        ways = [set(bound)]
        self._all(node.body, ways[0])
        for other in node.elif_:
            self._visit(other.test, bound)
            ways.append(set(bound))
            self._all(other.body, ways[-1])
        ways.append(set(bound))
        self._all(node.else_, ways[-1])
        bound |= set.intersection(*ways)

    def _in_assign(self, node: nodes.Assign, bound: set[str]) -> None:
        self._visit(node.node, bound)
        bound |= _stored(node.target)

    def _in_assignblock(self, node: nodes.AssignBlock, bound: set[str]) -> None:
        if node.filter is not None:
            self._visit(node.filter, bound)
        self._all(node.body, set(bound))
        bound |= _stored(node.target)

    def _in_with(self, node: nodes.With, bound: set[str]) -> None:
        self._all(node.values, bound)
        self._all(node.body, bound.union(*map(_stored, node.targets)))

    def _in_macro(self, node: nodes.Macro, bound: set[str]) -> None:
        bound.add(node.name)
        inside = bound.union(*map(_stored, node.args)) | _OF_MACROS
        self._all(node.defaults, set(inside))
        self._all(node.body, inside)

    def _in_callblock(self, node: nodes.CallBlock, bound: set[str]) -> None:
        self._visit(node.call, bound)
        self._all(node.defaults, bound)
        self._all(node.body, bound.union(*map(_stored, node.args)))

    def _in_filterblock(self, node: nodes.FilterBlock, bound: set[str]) -> None:
        self._visit(node.filter, bound)
        self._all(node.body, set(bound))

    def _in_scope(self, node: nodes.Scope, bound: set[str]) -> None:
        self._all(node.body, set(bound))


def _stored(node: nodes.Node) -> set[str]:
    names: list[Any] = [node, *node.find_all(nodes.Name)]
    return {name.name for name in names if isinstance(name, nodes.Name)}


def _path(name: str, keys: list[nodes.Expr]) -> Path:
    path = [name]
    for key in keys:
        if not isinstance(key, nodes.Const) or not isinstance(key.value, str | int):
            break
        path.append(str(key.value))
    return tuple(path)
