"""What a JSON schema is made of, and whether it may be used: size, references, and how much work it can make.

The work of checking a value against a schema can double with each level of either. So a schema is written out in
thought, each `$ref` replaced by what it names: how long that would be is its weight. Where it is recursive, what counts
is how often one part of a value may be checked against the recursive part: more than once means that only values of
limited depth may be checked.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from pipeline.workflow.json_schema_parts import Edge, Path, edges_of, pointed, schemas_of

MAX_BYTES = 1 << 18
MAX_WEIGHT = 20_000
MAX_DEPTH = 100  # of a schema, and of values
MAX_VISITS = 4096  # of one part of a value, where a schema is recursive several times over
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class SchemaRefused(Exception):
    """A schema that is not valid, or that may not be used here. `path`: keys and indices from its root."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class Shape(NamedTuple):
    """`text` is the schema in canonical form; `value_depth` how deeply a value may be nested to be checked."""

    text: bytes
    value_depth: int


def shape_of(schema: Any) -> Shape:
    """Raises `SchemaRefused`. Keywords of the wrong type are passed over: the library will name them."""
    if not isinstance(schema, dict | bool):
        raise SchemaRefused("a JSON schema is an object, or true or false", ())
    text = _canonical(schema)
    if isinstance(schema, bool):
        return Shape(text, MAX_DEPTH)
    declared = schema.get("$schema")
    if declared is not None and (not isinstance(declared, str) or declared.rstrip("#") != DIALECT):
        raise SchemaRefused(f"expected JSON schema 2020-12 ({DIALECT})", ("$schema",))
    return Shape(text, _Graph(schema).value_depth())


def _canonical(schema: Any) -> bytes:
    try:
        _check_keys(schema)
        text = msgspec.json.encode(schema, order="deterministic")
    except RecursionError:
        raise SchemaRefused("nested too deeply", ()) from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise SchemaRefused(f"not JSON: {error}"[:200], ()) from None
    if len(text) > MAX_BYTES:
        raise SchemaRefused(f"too large: {len(text)} bytes, where {MAX_BYTES} are allowed", ())
    return text


def _check_keys(schema: Any) -> None:
    """Keys are texts, and nothing is nested too deeply, whatever it is."""
    layer: list[tuple[Path, Any]] = [((), schema)]
    for _ in range(MAX_DEPTH):
        inner: list[tuple[Path, Any]] = []
        for path, value in layer:
            if isinstance(value, dict):
                for key, one in value.items():
                    if not isinstance(key, str):
                        raise SchemaRefused(f"the key {str(key)[:40]} is not a text", path)
                    inner.append(((*path, key), one))
            elif isinstance(value, list):
                inner += [((*path, position), one) for position, one in enumerate(value)]
        if not inner:
            return
        if len(inner) > MAX_BYTES:
            raise SchemaRefused(f"too large: more than {MAX_BYTES} values", ())
        layer = inner
    raise SchemaRefused(f"nested too deeply: more than {MAX_DEPTH} levels", layer[0][0][:10])


class _Graph:
    """The schemas within one, and what leads from each to others. They are known by their identity."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._anchors: dict[str, Any] = {}
        self._edges: dict[int, list[Edge]] = {}
        self._kept: list[Any] = []  # what is known by its identity must live
        self._weights: dict[int, int] = {}
        self._fans: dict[int, dict[str, int]] = {}
        self._collect()

    def value_depth(self) -> int:
        """Raises `SchemaRefused` for what takes for ever, or too long."""
        self._refuse_endless()
        for node in self._edges:
            self._weigh(node)
        loops = self._cyclic(lambda _: True)
        if not loops:
            return MAX_DEPTH
        fan = max((max(self._fan(node, loops).values(), default=0) for node in self._edges), default=0)
        depth = 0
        while depth < MAX_DEPTH and max(fan, 1) ** (depth + 1) <= MAX_VISITS:
            depth += 1
        return depth

    def _collect(self) -> None:
        schemas = list(schemas_of(self._root))
        for path, schema in schemas:
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(schema.get(keyword), str):
                    self._anchors[schema[keyword]] = schema
            if path and "$id" in schema:
                raise SchemaRefused("an $id inside a schema is not supported", (*path, "$id"))
        for path, schema in schemas:
            self._add(path, schema)
        for edge in [edge for edges in self._edges.values() for edge in edges]:
            self._follow(edge)

    def _follow(self, edge: Edge) -> None:
        """References may lead to what stands where no schemas are looked for."""
        waiting = [edge]
        while waiting:
            edge = waiting.pop()
            if id(edge.target) not in self._edges:
                self._add(edge.path, edge.target)
                waiting += self._edges[id(edge.target)]

    def _add(self, path: Path, schema: dict[str, Any]) -> None:
        self._kept.append(schema)
        edges = self._edges[id(schema)] = list(edges_of(path, schema))
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in schema:
                where = (*path, keyword)
                edges.append(Edge("", where, self._named(schema[keyword], where)))

    def _named(self, reference: Any, path: Path) -> Any:
        """What a reference leads to: an object; one that is true or false is as good as an empty one here."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            shown = f"{reference!r}"[:100]
            raise SchemaRefused(f"only references within the schema (#…) are followed, not {shown}", path)
        target = pointed(self._root, reference[1:]) if reference[1:2] in {"", "/"} else self._anchors.get(reference[1:])
        if target is None or not isinstance(target, dict | bool):
            raise SchemaRefused(f"{reference[:100]!r} leads to no schema", path)
        return {} if isinstance(target, bool) else target

    def _refuse_endless(self) -> None:
        """A schema must not come back to itself while it looks at the same value."""
        left = self._cyclic(lambda edge: not edge.part)
        if not left:
            return
        node, seen = min(left, key=list(self._edges).index), set[int]()
        while node not in seen:
            seen.add(node)
            edge = next(edge for edge in self._edges[node] if not edge.part and id(edge.target) in left)
            node = id(edge.target)
        raise SchemaRefused("this refers to itself without end", edge.path)

    def _weigh(self, start: int) -> None:
        """Depth first, and without recursion: references make chains of any length. What leads back to a schema that is
        being looked at counts nothing."""
        if start in self._weights:
            return
        stack = [(start, iter(self._edges[start]))]
        sums = {start: 1}
        while stack:
            node, edges = stack[-1]
            edge = next(edges, None)
            if edge is None:
                stack.pop()
                self._weights[node] = weight = sums.pop(node)
                if stack:
                    sums[stack[-1][0]] += weight
            elif id(edge.target) in self._weights:
                sums[node] += self._weights[id(edge.target)]
            elif id(edge.target) not in sums:
                sums[id(edge.target)] = 1
                stack.append((id(edge.target), iter(self._edges[id(edge.target)])))
            if edge is not None and sums[node] > MAX_WEIGHT:
                raise SchemaRefused(f"too large: written out it has more than {MAX_WEIGHT} schemas", edge.path)

    def _cyclic(self, counts: Callable[[Edge], bool]) -> set[int]:
        """The schemas from which one comes into a circle: what is left when all that lead nowhere are taken away."""
        feeds: dict[int, list[int]] = {node: [] for node in self._edges}
        left = dict.fromkeys(self._edges, 0)
        for node, edges in self._edges.items():
            for edge in edges:
                if counts(edge):
                    feeds[id(edge.target)].append(node)
                    left[node] += 1
        waiting = [node for node, count in left.items() if not count]
        while waiting:
            node = waiting.pop()
            del left[node]
            for feeder in feeds[node]:
                left[feeder] -= 1
                if not left[feeder]:
                    waiting.append(feeder)
        return set(left)

    def _fan(self, node: int, loops: set[int]) -> Mapping[str, int]:
        """How often, at most, each part of a value is given to a recursive schema when it is checked against this one.
        Those that look at the same value are acyclic by now, and of limited weight."""
        known = self._fans.get(node)
        if known is not None:
            return known
        parts: dict[str, int] = {}
        for edge in self._edges[node]:
            if not edge.part:
                for part, count in self._fan(id(edge.target), loops).items():
                    parts[part] = parts.get(part, 0) + count
            elif id(edge.target) in loops:
                parts[edge.part] = parts.get(edge.part, 0) + 1
        everywhere = parts.get("*", 0)
        found = {part: count + (everywhere if part not in {"*", "[]"} else 0) for part, count in parts.items()}
        self._fans[node] = found
        return found
