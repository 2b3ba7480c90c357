"""Where everything of a picture stands: in layers from top to bottom, each step below all that it waits for.

After Sugiyama: longest paths give the layers, long links are cut by knots (one in each layer that they pass), the
neighbours' mean places give the order within a layer and then the positions (exactly, by isotonic regression).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from pipeline.operate.workflow.drawing.sketch import Link, Shape, Sketch

Point = tuple[float, float]

_GAP_X = 28.0
_GAP_Y = 46.0
LABEL = 24.0  # of the way down to a step, where there is a label
_PAD = 18.0
_HEAD = 44.0  # of a box with steps inside
_HEIGHT = 46.0
_HEIGHT_WITH_NOTE = 62.0
_MIN_WIDTH = 110.0
_TITLE = 1.13  # of a title's letters, to all others
_WIDE, _NARROW = frozenset("mwMW@%—…"), frozenset("iljtfrI.,:;'|!()[] ")
_KNOT = 10.0
_MAX_KNOTS = 20_000  # beyond, long links are drawn straight
_SWEEPS = 6
_MANY = 2_000  # steps, of which one sweep must do


class Placed(msgspec.Struct, frozen=True):
    """`x`, `y`: the left upper corner, within the drawing it belongs to; `inner` begins at the same corner."""

    shape: Shape
    x: float
    y: float
    width: float
    height: float
    inner: "Drawing | None"


class Wire(msgspec.Struct, frozen=True):
    """Straight down between the points of each pair, curved from pair to pair; one with a label is straight too where
    that stands, in the last `LABEL` of its first curve."""

    link: Link
    points: tuple[Point, ...]


class Drawing(msgspec.Struct, frozen=True):
    width: float
    height: float
    boxes: tuple[Placed, ...]
    wires: tuple[Wire, ...]


class Item(msgspec.Struct, eq=False):
    """A step or a knot in its layer. `x` is its middle."""

    width: float
    height: float
    layer: int
    above: list["Item"] = []
    below: list["Item"] = []
    x: float = 0.0
    knot: bool = False


def layout(drawn: Sketch, top: float = _PAD) -> Drawing:
    """`top`: room left above everything."""
    inner = [None if shape.inner is None else layout(shape.inner, _HEAD) for shape in drawn.shapes]
    sizes = _sizes(drawn, inner)
    depths = _depths(len(drawn.shapes), drawn.links)
    items = [Item(width, height, depth) for (width, height), depth in zip(sizes, depths, strict=True)]
    chains = _chains(drawn.links, items)
    layers = _layers(items, chains)
    for _ in range(_SWEEPS if len(items) < _MANY else 1):
        _order(layers)
    _position(layers)
    return _drawing(drawn, inner, (items, chains, layers), top)


def _sizes(drawn: Sketch, inner: Sequence[Drawing | None]) -> list[Point]:
    """A gated step is at least as wide as what stands on the link to it."""
    labels: Mapping[int, float] = {link.end: long(link.label) for link in drawn.links if link.label}
    return [
        _size(shape, labels.get(place, 0.0), inside)
        for place, (shape, inside) in enumerate(zip(drawn.shapes, inner, strict=True))
    ]


def _size(shape: Shape, label: float, inside: Drawing | None) -> Point:
    title, kind, note = long(shape.title) * _TITLE, long(shape.kind), long(shape.note)
    if inside is not None:
        return max(inside.width, max(title + kind + 10, label, note) + 2 * _PAD), inside.height
    pointed = 2 * _PAD if shape.kind == "branch" else 0.0
    width = max(title, kind, note, label) + _PAD + pointed
    return max(_MIN_WIDTH, width), _HEIGHT_WITH_NOTE if shape.note else _HEIGHT


def long(text: str) -> float:
    """About how many pixels: whoever looks at it has a font of their own."""
    wide, narrow = sum(letter in _WIDE for letter in text), sum(letter in _NARROW for letter in text)
    capital = sum(letter.isupper() or not letter.isascii() for letter in text)
    return 7.2 * len(text) + 4.6 * wide - 2.4 * narrow + 1.6 * capital


def _depths(count: int, links: Sequence[Link]) -> list[int]:
    """The longest way to each from one that needs none."""
    feeds: dict[int, list[int]] = defaultdict(list)
    missing = [0] * count
    for link in links:
        feeds[link.start].append(link.end)
        missing[link.end] += 1
    depths = [0] * count
    ready = [place for place in range(count) if not missing[place]]
    for place in ready:  # grows
        for end in feeds[place]:
            depths[end] = max(depths[end], depths[place] + 1)
            missing[end] -= 1
            if not missing[end]:
                ready.append(end)
    return depths


def _chains(links: Sequence[Link], items: list[Item]) -> list[list[Item]]:
    """The items that each link passes, knots among them; tells the items of their neighbours."""
    spare = _MAX_KNOTS
    chains = []
    for link in links:
        start, end = items[link.start], items[link.end]
        between = range(start.layer + 1, end.layer)
        knots = [Item(_KNOT, 0.0, layer, [], [], 0.0, knot=True) for layer in between] if len(between) <= spare else []
        spare -= len(knots)
        chain = [start, *knots, end]
        for upper, lower in pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        chains.append(chain)
    return chains


def _layers(items: Sequence[Item], chains: Sequence[Sequence[Item]]) -> list[list[Item]]:
    layers: list[list[Item]] = [[] for _ in range(max((item.layer for item in items), default=-1) + 1)]
    for item in [*items, *(knot for chain in chains for knot in chain[1:-1])]:
        layers[item.layer].append(item)
    for layer in layers:
        _number(layer)
    return layers


def _order(layers: Sequence[list[Item]]) -> None:
    """By the mean place of the neighbours above, then, upwards, of those below. `x` is the place for now."""
    for layer in layers[1:]:
        layer.sort(key=lambda item: _mean(item.above, item.x))
        _number(layer)
    for layer in reversed(layers[:-1]):
        layer.sort(key=lambda item: _mean(item.below, item.x))
        _number(layer)


def _number(layer: Sequence[Item]) -> None:
    """Places from 0 to 1, so that layers of other lengths can be compared."""
    for place, item in enumerate(layer):
        item.x = (place + 0.5) / len(layer)


def _position(layers: Sequence[list[Item]]) -> None:
    for layer in layers:
        x = 0.0
        for item in layer:
            item.x = x + item.width / 2
            x += item.width + _GAP_X
        for item in layer:
            item.x -= (x - _GAP_X) / 2
    for _ in range(_SWEEPS):
        for layer in layers:
            _settle(layer, [_mean(item.above, item.x) for item in layer])
        for layer in reversed(layers):
            _settle(layer, [_mean(item.below, item.x) for item in layer])
    for layer in layers:
        _settle(layer, [_mean([*item.above, *item.below], item.x) for item in layer])


def _settle(layer: Sequence[Item], wanted: Sequence[float]) -> None:
    """As near as can be to what is wanted (least squares) without changing the order or touching each other: pool
    adjacent violators. Knots count more, so that long links are straight."""
    offset, offsets = 0.0, []
    for before, item in zip([None, *layer], layer, strict=False):
        offset += 0.0 if before is None else (before.width + item.width) / 2 + _GAP_X
        offsets.append(offset)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for item, want, off in zip(layer, wanted, offsets, strict=True):
        mean, weight, count = want - off, 4.0 if item.knot else 1.0, 1
        while blocks and blocks[-1][0] >= mean:
            other, more, several = blocks.pop()
            mean = (mean * weight + other * more) / (weight + more)
            weight, count = weight + more, count + several
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    for item, mean, off in zip(layer, means, offsets, strict=True):
        item.x = mean + off


def _mean(items: Sequence[Item], otherwise: float) -> float:
    return sum(item.x for item in items) / len(items) if items else otherwise


def _drawing(
    drawn: Sketch,
    inner: Sequence[Drawing | None],
    laid: tuple[Sequence[Item], Sequence[Sequence[Item]], Sequence[Sequence[Item]]],
    top: float,
) -> Drawing:
    items, chains, layers = laid
    every = [item for layer in layers for item in layer]
    left = min((item.x - item.width / 2 for item in every), default=0.0) - _PAD
    width = max((item.x + item.width / 2 for item in every), default=0.0) - left + _PAD
    labelled = {chain[0].layer for link, chain in zip(drawn.links, chains, strict=True) if link.label}
    gaps = [_GAP_Y + (LABEL if number in labelled else 0.0) for number in range(len(layers))]
    tops, y = [], top
    for layer, gap in zip(layers, gaps, strict=True):
        tops.append(y)
        y += max(item.height for item in layer) + gap
    ends = [start - gap for start, gap in zip([*tops[1:], y], gaps, strict=True)]
    boxes = tuple(
        Placed(shape, item.x - item.width / 2 - left, tops[item.layer], item.width, item.height, inside)
        for shape, item, inside in zip(drawn.shapes, items, inner, strict=True)
    )
    wires = tuple(Wire(link, _points(chain, left, tops, ends)) for link, chain in zip(drawn.links, chains, strict=True))
    return Drawing(width, max(ends[-1] if ends else top, top) + _PAD, boxes, wires)


def _points(chain: Sequence[Item], left: float, tops: Sequence[float], ends: Sequence[float]) -> tuple[Point, ...]:
    start, end = chain[0], chain[-1]
    points = [(start.x - left, tops[start.layer] + start.height), (start.x - left, ends[start.layer])]
    for knot in chain[1:-1]:
        points += [(knot.x - left, tops[knot.layer]), (knot.x - left, ends[knot.layer])]
    return (*points, (end.x - left, tops[end.layer]))
