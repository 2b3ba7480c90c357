"""What a template's syntax tree may hold, and the counting that is put into it before it is compiled."""

import re

from jinja2 import TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

from pipeline.stages.sandbox_parts import METHODS

MAX_DEPTH = 60  # nodes within nodes: what Python's own compiler takes with some room
MAX_LOOPS = 10  # loops within loops, of which Python takes 20
_ALONE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.NSRef)
_BUILT = (nodes.List, nodes.Tuple, nodes.Dict)
_PLAIN = (nodes.Const, nodes.TemplateData, nodes.List, nodes.Tuple)  # what has no fields
_BODIES = (nodes.For, nodes.Macro, nodes.CallBlock)
_TRANSLATED = re.compile(r"_(?:this|key)\d+|_up(\d+)_(\w+)")  # what handlebars become


def refuse(tree: nodes.Template, filters: frozenset[str], tests: frozenset[str], *, built: bool) -> int:
    """Raises `TemplateSyntaxError` for what the sandbox does not offer. Returns how deep the tree is."""
    deepest = 0
    waiting: list[tuple[nodes.Node, int, int]] = [(tree, 0, 0)]
    while waiting:
        node, depth, loops = waiting.pop()
        if isinstance(node, _BODIES):
            loops += 1
        deepest = max(deepest, depth)
        line = getattr(node, "lineno", 1)
        if depth > MAX_DEPTH or loops > MAX_LOOPS:
            raise TemplateSyntaxError("the template is nested too deeply", line)
        _refuse_node(node, filters, tests, built=built)
        waiting.extend((child, depth + 1, loops) for child in node.iter_child_nodes())
    return deepest


def _refuse_node(node: nodes.Node, filters: frozenset[str], tests: frozenset[str], *, built: bool) -> None:
    line = node.lineno
    if isinstance(node, _ALONE):
        raise TemplateSyntaxError(f"{type(node).__name__.lower()!r} is not offered: a template stands alone", line)
    if isinstance(node, nodes.Name | nodes.Macro) and _reserved(node.name, built=built):
        raise TemplateSyntaxError(f"the name {node.name!r} is reserved", line)
    if built and isinstance(node, nodes.Getattr) and isinstance(node.node, _PLAIN) and node.attr not in METHODS:
        raise TemplateSyntaxError(f"{node.attr!r} of a constant is not offered", line)
    if isinstance(node, nodes.Filter) and node.name not in filters:
        raise TemplateSyntaxError(f"No filter named {node.name!r}", line)
    if isinstance(node, nodes.Test) and node.name not in tests:
        raise TemplateSyntaxError(f"No test named {node.name!r}", line)
    if not built and isinstance(node, _BUILT) and getattr(node, "ctx", "load") == "load" and _has_names(node):
        raise TemplateSyntaxError("a list or dict of anything but constants is not offered", line)


def _has_names(node: nodes.Node) -> bool:
    return next(node.find_all(nodes.Name), None) is not None


def _reserved(name: str, *, built: bool) -> bool:
    return name == "self" or (name.startswith("_") and not (built and _TRANSLATED.fullmatch(name) is not None))


def instrument(tree: nodes.Template) -> None:
    _Instruments().visit(tree)


def _filter(name: str, node: nodes.Node, *args: nodes.Expr) -> nodes.Filter:
    """A call of one of the sandbox's own filters, whose names no template can write."""
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Instruments(NodeTransformer):
    """Puts the meter into bodies, and replaces whatever could take long or make much by a counted form of it."""

    def __init__(self) -> None:
        self._bodies = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's naming, here and below
        if node.test is not None:
            node.test = _filter("tick", node.test)
        return self._body(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._body(node)

    def _body(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self._bodies += 1
        self.generic_visit(node)
        self._bodies -= 1
        meter = nodes.Name("_meter", "load", lineno=node.lineno)
        node.body.insert(0, nodes.Output([meter], lineno=node.lineno))
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802
        """Inside of bodies it is printed like a value: that counts."""
        return nodes.Const(node.data, lineno=node.lineno) if self._bodies else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        first, *others = node.nodes
        return _filter("~", first, *others)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter("tick", node.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.node = _filter("tick", node.node)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter("[]", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter("[]", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx == "store" else _filter("[]", node)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        """`_up2_name`: the name in the second `{{#each}}`'s item, else in the first's, else outside."""
        level, name = own_name(node.name)
        made: nodes.Node = nodes.Name(name, node.ctx, lineno=node.lineno)
        for one in range(1, level + 1):
            item = nodes.Name(f"_this{one}", "load", lineno=node.lineno)
            made = _filter("own", item, nodes.Const(name, lineno=node.lineno), made)  # type: ignore[arg-type]
        return made

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        called = node.node
        if isinstance(called, nodes.Getattr) and called.attr in METHODS:
            node.node = _filter("method", self.visit(called.node), nodes.Const(called.attr, lineno=node.lineno))
            for field in ("args", "kwargs"):
                setattr(node, field, [self.visit(one) for one in getattr(node, field)])
            return node
        self.generic_visit(node)
        return node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:  # noqa: N802
        return self._chain(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self.generic_visit(node)
            places = (node.arg.start, node.arg.stop, node.arg.step)
            nothing = nodes.Const(None, lineno=node.lineno)
            return _filter("[:]", node.node, *(place or nothing for place in places))
        return self._chain(node)

    def _chain(self, node: nodes.Expr) -> nodes.Node:
        """`a.b[0].c` in one go, so that an error can name all of it."""
        keys: list[nodes.Expr] = []
        while (key := key_of(node)) is not None:
            keys.insert(0, self.visit(key))
            node = node.node  # type: ignore[attr-defined]  # what has a key has a node
        label = own_name(node.name)[1] if isinstance(node, nodes.Name) else "(…)"
        return _filter(".", self.visit(node), nodes.Const(label, lineno=node.lineno), *keys)


def own_name(name: str) -> tuple[int, str]:
    """`_up1_name` is (1, "name"), any other name (0, itself)."""
    found = _TRANSLATED.fullmatch(name)
    return (int(found[1]), found[2]) if found is not None and found[2] is not None else (0, name)


def key_of(node: nodes.Node) -> nodes.Expr | None:
    """What a node looks up in another: a constant wherever it can be one."""
    if isinstance(node, nodes.Getattr):
        return nodes.Const(node.attr, lineno=node.lineno)
    if not isinstance(node, nodes.Getitem) or isinstance(node.arg, nodes.Slice):
        return None
    if isinstance(node.arg, nodes.Neg) and isinstance(node.arg.node, nodes.Const) and type(node.arg.node.value) is int:
        return nodes.Const(-node.arg.node.value, lineno=node.lineno)
    return node.arg
