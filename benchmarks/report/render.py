"""From parts to one HTML file that needs nothing else: style, scripts and figures are in it."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from benchmarks.report import parts
from benchmarks.report.errors import NeedsPlotly
from benchmarks.report.facts import Verdict
from benchmarks.report.parts import Chart, Section, Tile

_FOLDER = Path(__file__).parent / "templates"


def render(
    *,
    title: str,
    lines: Sequence[str],
    verdict: Verdict | None,
    tiles_title: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
) -> str:
    """`lines` stand under the title. Raises NeedsPlotly."""
    charts = [item for section in sections for item in section.items if isinstance(item, Chart)]
    plotly, script = _plotly() if charts else "", _file("page.js")
    return _template().render(
        title=title,
        lines=lines,
        verdict=verdict,
        tiles_title=tiles_title,
        tiles=tiles,
        sections=[section for section in sections if section.items],
        style=_file("page.css"),
        plotly=plotly,
        script=script,
        charts=embedded([{"id": chart.id, "height": chart.height, **chart.figure} for chart in charts]),
        policy=_policy(plotly, script),
    )


def embedded(value: Any) -> str:
    """JSON that stands in a script element: nothing in it can end that element."""
    text = msgspec.json.encode(value).decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _policy(*scripts: str) -> str:
    """No request of any kind, and no script but ours: should a text from outside ever pass the escaping, it stays dead.

    Plotly sets styles by itself, so these cannot be named by hash.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = parts.kind
    return environment.get_template("page.html.j2")


@cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise NeedsPlotly from error
    source: str = get_plotlyjs()
    return source.replace("\r\n", "\n")  # as browsers read it, or its hash would not fit
