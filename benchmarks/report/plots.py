"""How the charts look: axes, colours, marks. Figures are plotly's, as plain dictionaries; `page.js` draws them."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.histogram import Histogram
from benchmarks.report import units

Trace = dict[str, Any]

# One colour for one thing in all charts; the values for both themes are in `page.css`. Patterns and dashes tell the
# same apart without colour.
OUTCOMES = {
    "completed": ("--completed", ""),
    "shed": ("--shed", "/"),
    "refused otherwise": ("--refused", "."),
    "failed": ("--failed", "x"),
    "cancelled": ("--cancelled", "-"),
}
SERIES = [f"--series{index}" for index in range(1, 9)]
DASHES = ["solid", "dash", "dot", "dashdot"]
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"]

NINES = (("p0", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999))


def escaped(text: str, most: int = 40) -> str:
    """Plotly reads names and labels as a kind of HTML."""
    return html.escape(units.plain(text, most))


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        **({"title": {"text": title, "font": {"size": 12}, "standoff": 8}} if title else {}),
        "gridcolor": "--grid",
        "linecolor": "--axis",
        "zeroline": False,
        "automargin": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "--axis",
        "separatethousands": True,
        **more,
    }


def figure(traces: Sequence[Trace], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> dict[str, Any]:
    return {
        "data": list(traces),
        "layout": {
            "xaxis": x,
            "yaxis": y,
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "paper_bgcolor": "--card",
            "plot_bgcolor": "--card",
            "font": {"color": "--ink", "size": 12},
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.03,
                "xanchor": "left",
                "yanchor": "bottom",
                "traceorder": "normal",
            },
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": "--card", "bordercolor": "--axis", "font": {"color": "--ink"}},
            **layout,
        },
    }


def line(name: str, x: Sequence[Any], y: Sequence[float | None], color: str, **more: Any) -> Trace:
    """`dash`, `shape`, `symbol`, `width` as keywords; `texts` are what the pointer shows instead of the bare number."""
    texts = more.pop("texts", None)
    stroke = {"color": color, "width": more.pop("width", 2), "dash": more.pop("dash", "solid")}
    if "shape" in more:
        stroke["shape"] = more.pop("shape")
    trace: Trace = {
        "type": "scatter",
        "mode": more.pop("mode", "lines"),
        "name": name,
        "x": _places(x),
        "y": rounded(y),
        "line": stroke,
        **more,
    }
    if "markers" in trace["mode"]:
        trace["marker"] = {"color": color, "symbol": more.get("symbol", "circle"), "size": 8}
        trace |= {"cliponaxis": False}
        trace.pop("symbol", None)
    if texts is not None:
        trace["customdata"] = list(texts)
    trace["hovertemplate"] = "%{y:,.4~g}" if texts is None else "%{customdata}"
    return trace


def bars(name: str, x: Sequence[Any], y: Sequence[float | None], color: str, pattern: str = "", **more: Any) -> Trace:
    return {
        "type": "bar",
        "hovertemplate": "%{y:,.4~g}",
        "name": name,
        "x": _places(x),
        "y": rounded(y),
        "marker": {
            "color": color,
            "line": {"width": 0},
            "pattern": {
                "shape": pattern,
                "fillmode": "overlay",
                "fgcolor": "--card",
                "fgopacity": 0.35,
                "size": 6,
                "solidity": 0.2,
            },
        },
        **more,
    }


def time_axis(seconds: float) -> dict[str, Any]:
    return axis(
        "seconds since the run began",
        range=[0, max(seconds, 0.001)],
        nticks=12,
        unifiedhovertitle={"text": "%{x:.4~g} s"},
    )


def duration_axis(values: Iterable[float | None], title: str) -> dict[str, Any]:
    """A logarithmic axis of seconds whose marks are readable durations."""
    known = [value for value in values if value]
    least, most = (min(known), max(known)) if known else (0.001, 1.0)
    low, high = math.log10(least) - 0.08, math.log10(most) + 0.08
    steps = (
        (1, 1.5, 2, 3, 5, 7)
        if high - low < 0.8
        else (1, 2, 5)
        if high - low < 2.5
        else (1, 3)
        if high - low < 4
        else (1,)
    )
    marks = [
        step * 10.0**power
        for power in range(math.floor(low) - 1, math.ceil(high) + 1)
        for step in steps
        if low <= math.log10(step * 10.0**power) <= high
    ]
    return axis(
        title, type="log", range=[low, high], tickvals=marks, ticktext=[_mark(mark) for mark in marks], automargin=True
    )


def _mark(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor * 0.999:
            return f"{seconds / factor:,.3g} {unit}"
    return f"{seconds:.0e} s"


def nines_axis(most: int) -> dict[str, Any]:
    """Percentiles so that each further nine has the same width; no further than `most` values can tell."""
    end = max(math.log10(max(most, 1)), 0.6)
    marks = [(name, -math.log10(1 - share)) for name, share in NINES]
    marks = [(name, place) for name, place in marks if place <= end + 0.02]
    return axis(
        "percentile (each nine as wide as the one before)",
        range=[0, end],
        tickvals=[place for _, place in marks],
        ticktext=[name for name, _ in marks],
    )


def curve(name: str, histogram: Histogram, color: str, **more: Any) -> Trace:
    """A histogram's percentiles, up to the last that its count can tell: ten values have no p99."""
    end = math.log10(max(histogram.count, 1))
    places = [index * 0.05 for index in range(int(end / 0.05) + 1)]
    shares = [1 - 10**-place for place in places]
    values = [histogram.percentile(share) for share in shares]
    texts = [f"{units.duration(value)} at p{share * 100:.4g}" for value, share in zip(values, shares, strict=True)]
    if len(places) == 1:
        more["mode"] = "markers"
    return line(name, places, values, color, texts=texts, **more)


def _places(x: Sequence[Any]) -> list[Any]:
    return list(x) if any(isinstance(place, str) for place in x) else list(rounded(x))


def rounded(values: Iterable[float | None]) -> list[float | None]:
    """Five digits: what a screen can show, at half of the page's size."""
    return [None if value is None else float(f"{value:.5g}") for value in values]
