"""Charts of percentiles."""

from collections.abc import Sequence

from benchmarks.histogram import Histogram
from benchmarks.report import parts, plots
from benchmarks.report.parts import Chart, Table

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999))


def curves(identity: str, title: str, words: str, series: Sequence[tuple[str, Histogram, str, str]]) -> Chart:
    """`series`: name, what, colour and dash of each curve; none of them empty."""
    traces = [
        plots.curve(plots.escaped(name, 50), histogram, color, dash=dash) for name, histogram, color, dash in series
    ]
    extremes = [value for _, found, _, _ in series for value in (max(found.percentile(0.0) or 0, 1e-6), found.most)]
    figure = plots.figure(
        traces,
        plots.nines_axis(max(found.count for _, found, _, _ in series)),
        plots.duration_axis(extremes, "time (logarithmic)"),
        hovermode="closest",
    )
    rows = [
        [
            parts.words(name, 80),
            parts.count(found.count),
            *(parts.seconds(found.percentile(share)) for _, share in PERCENTILES),
            parts.seconds(found.most),
        ]
        for name, found, _, _ in series
    ]
    table = Table(title, ["", "count", *(name for name, _ in PERCENTILES), "longest"], rows)
    description = f"{words} A curve ends at the last percentile that its count can tell."
    return Chart(identity, title, description, figure, table, 380)
