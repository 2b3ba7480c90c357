"""An SVG that stands by itself: no script, no font, no address in it."""

from collections.abc import Iterator
from html import escape

from pipeline.operate.workflow.drawing.layout import LABEL, Drawing, Placed, Point, Wire, layout, long
from pipeline.operate.workflow.drawing.sketch import Sketch

_STYLE = """
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #555; text-anchor: middle }
.title { font-weight: 600; font-size: 13px; fill: #222 }
.head text { text-anchor: start }
.label { font-size: 11.5px; fill: #444 } .paper { fill: #fff }
.box { fill: #fff; stroke: #8a8f98; stroke-width: 1.3 }
.around { fill: #f7f8fa; stroke: #b4b9c2; stroke-width: 1.3 }
.wire { fill: none; stroke: #8a8f98; stroke-width: 1.4; marker-end: url(#arrow) }
.llm { stroke: #6d4fc4 } .branch { stroke: #b98900 }
.completed { fill: #e3f4e6; stroke: #2f8f46 } .around.completed { fill: #f4fbf5 }
.running { fill: #e3eefc; stroke: #2f6fcb } .around.running { fill: #f5f9fe }
.waiting, .retrying { fill: #fdf3d7; stroke: #b98900 }
.failed { fill: #fbe3e2; stroke: #c5352d; stroke-width: 2 } .around.failed { fill: #fdf5f4 }
.abandoned { fill: #fbe3e2; stroke: #c5352d; stroke-dasharray: 5 4 }
.skipped { fill: #f2f2f2; stroke: #9a9a9a; stroke-dasharray: 5 4 }
.skipped ~ text { fill: #888 }
.pending { fill: #fff; stroke: #b4b9c2 }
"""
_ARROW = (
    '<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L10 5L0 10z" fill="#8a8f98"/></marker>'
)
_INSET = 18.0  # of a heading
_LABEL_AT = 12.0  # above where a link with a label ends: its base line
_PAPER = 14.0  # behind it: its height


def svg(drawn: Sketch, title: str) -> str:
    """`title` is for those who do not see it."""
    drawing = layout(drawn)
    width, height = _number(drawing.width), _number(drawing.height)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">'
    )
    parts = [head, f"<title>{_text(title)}</title>", f"<style>{_STYLE}</style>", f"<defs>{_ARROW}</defs>"]
    parts.append('<rect width="100%" height="100%" fill="#fff"/>')
    return "\n".join([*parts, *_contents(drawing), "</svg>"]) + "\n"


def _contents(drawing: Drawing) -> Iterator[str]:
    yield from (_wire(wire) for wire in drawing.wires)
    for box in drawing.boxes:
        yield from _box(box)
    yield from (_label(wire) for wire in drawing.wires if wire.link.label)  # above all lines


def _box(box: Placed) -> Iterator[str]:
    yield f'<g transform="translate({_number(box.x)} {_number(box.y)})">'
    if box.inner is None:
        yield from _leaf(box)
    else:
        yield from _around(box, box.inner)
    yield "</g>"


def _leaf(box: Placed) -> Iterator[str]:
    shape, middle = box.shape, _number(box.width / 2)
    kind = shape.kind.partition(" ")[0]
    yield _outline(box, f"box {kind} {shape.state}".rstrip())
    yield f'<text class="title" x="{middle}" y="20">{_text(shape.title)}</text>'
    yield f'<text x="{middle}" y="36">{_text(shape.kind)}</text>'
    if shape.note:
        yield f'<text x="{middle}" y="52">{_text(shape.note)}</text>'


def _outline(box: Placed, classes: str) -> str:
    width, height = box.width, box.height
    if box.shape.kind != "branch":
        return (
            f'<rect class="{_text(classes)}" width="{_number(width)}" height="{_number(height)}" '
            f'rx="{10 if box.shape.kind == "llm" else 5}"/>'
        )
    points = [(0.0, height / 2), (16.0, 0.0), (width - 16, 0.0), (width, height / 2), (width - 16, height)]
    told = " ".join(f"{_number(x)},{_number(y)}" for x, y in [*points, (16.0, height)])
    return f'<polygon class="{_text(classes)}" points="{told}"/>'


def _around(box: Placed, inner: Drawing) -> Iterator[str]:
    shape = box.shape
    classes = _text(f"around {shape.state}".rstrip())
    yield f'<rect class="{classes}" width="{_number(box.width)}" height="{_number(box.height)}" rx="8"/>'
    yield f'<g class="head"><text x="{_INSET}" y="19"><tspan class="title">{_text(shape.title)}</tspan>'
    yield f'<tspan dx="8">{_text(shape.kind)}</tspan></text>'
    yield f'<text x="{_INSET}" y="34">{_text(shape.note)}</text></g>' if shape.note else "</g>"
    yield f'<g transform="translate({_number((box.width - inner.width) / 2)} 0)">'
    yield from _contents(inner)
    yield "</g>"


def _wire(wire: Wire) -> str:
    points = wire.points
    path = [f"M{_pair(points[0])}", f"L{_pair(points[1])}"]
    for place in range(1, len(points) - 1, 2):
        begin, end = points[place], points[place + 1]
        end = (end[0], end[1] - LABEL) if place == 1 and wire.link.label else end
        middle = (begin[1] + end[1]) / 2
        path.append(f"C{_pair((begin[0], middle))} {_pair((end[0], middle))} {_pair(end)}")
        if end != points[place + 1]:
            path.append(f"L{_pair(points[place + 1])}")
        if place + 2 < len(points):
            path.append(f"L{_pair(points[place + 2])}")
    return f'<path class="wire" d="{"".join(path)}"/>'


def _label(wire: Wire) -> str:
    """Where its first curve has ended: links of one branch are apart there. It hides its own line only."""
    x, y = wire.points[2]
    width = long(wire.link.label) + 4
    left, up = _number(x - width / 2), _number(y - _LABEL_AT - _PAPER + 3)
    return (
        f'<rect class="paper" x="{left}" y="{up}" width="{_number(width)}" height="{_number(_PAPER)}"/>'
        f'<text class="label" x="{_number(x)}" y="{_number(y - _LABEL_AT)}">{_text(wire.link.label)}</text>'
    )


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(text: str) -> str:
    return escape("".join(letter if letter.isprintable() else " " for letter in text))
