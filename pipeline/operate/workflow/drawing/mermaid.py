"""A Mermaid flowchart: for Markdown pages, which draw it themselves."""

from collections.abc import Iterator

from pipeline.operate.workflow.drawing.sketch import Shape, Sketch

# As `svg` has them: fill, line, and what else.
_CLASSES = {
    "completed": "fill:#e3f4e6,stroke:#2f8f46",
    "running": "fill:#e3eefc,stroke:#2f6fcb",
    "retrying": "fill:#fdf3d7,stroke:#b98900",
    "waiting": "fill:#fdf3d7,stroke:#b98900",
    "failed": "fill:#fbe3e2,stroke:#c5352d",
    "abandoned": "fill:#fbe3e2,stroke:#c5352d,stroke-dasharray:4",
    "skipped": "fill:#f2f2f2,stroke:#9a9a9a,stroke-dasharray:4,color:#777",
    "pending": "fill:#fff,stroke:#9a9a9a",
}
_RESERVED = str.maketrans(
    {
        "&": "#amp;",
        '"': "#quot;",
        "<": "#lt;",
        ">": "#gt;",
        "#": "#35;",
        "|": "#124;",
        "{": "#123;",
        "}": "#125;",
        "[": "#91;",
        "]": "#93;",
        "(": "#40;",
        ")": "#41;",
        "`": "#96;",
    }
)


def mermaid(drawn: Sketch) -> str:
    """Ends with a line break."""
    lines = ["flowchart TD", *_body(drawn, "n", "  ")]
    used = {shape.state for shape in _all(drawn) if shape.state}
    lines += [f"  classDef {name} {style}" for name, style in _CLASSES.items() if name in used]
    return "\n".join(lines) + "\n"


def _body(drawn: Sketch, prefix: str, indent: str) -> Iterator[str]:
    for place, shape in enumerate(drawn.shapes):
        name = f"{prefix}{place}"
        if shape.inner is None:
            yield indent + name + _node(shape) + _class(shape)
        else:
            yield f'{indent}subgraph {name}["{_text(shape)}"]'
            yield from _body(shape.inner, name + "_", indent + "  ")
            yield f"{indent}end"
            if shape.state:
                yield f"{indent}class {name} {shape.state}"
    for link in drawn.links:
        label = f'|"{_escaped(link.label)}"|' if link.label else ""
        yield f"{indent}{prefix}{link.start} -->{label} {prefix}{link.end}"


def _node(shape: Shape) -> str:
    text = f'"{_text(shape)}"'
    return f"{{{text}}}" if shape.kind == "branch" else f"[{text}]"


def _class(shape: Shape) -> str:
    return f":::{shape.state}" if shape.state else ""


def _text(shape: Shape) -> str:
    lines = [f"<b>{_escaped(shape.title)}</b>", _escaped(shape.kind), _escaped(shape.note)]
    return "<br/>".join(line for line in lines if line)


def _escaped(text: str) -> str:
    return text.translate(_RESERVED)


def _all(drawn: Sketch) -> Iterator[Shape]:
    for shape in drawn.shapes:
        yield shape
        if shape.inner is not None:
            yield from _all(shape.inner)
