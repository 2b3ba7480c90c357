"""What a refusal costs: `benchmarks.refusals`, as lines of the table."""

from collections.abc import Callable

from benchmarks.overload.lines import Line


def lines(row: str, *, quick: bool, say: Callable[[str], None]) -> list[Line]:
    """Takes about a minute and a half, `quick` ten seconds. `say` may raise to end it."""
    from benchmarks import refusals  # noqa: PLC0415 - starts daemons of its own: only where it is asked for

    try:
        measured = refusals.measure(quick=quick, say=say)
    except (RuntimeError, TimeoutError, OSError) as error:
        return [Line(row, "CPU of a refusal", "≤ 0.5, ≤ 0.05", "not measured", None, met=False, beside=str(error))]
    return [
        Line(
            row,
            f"CPU, {figure.name}",
            f"≤ {figure.floor:g}" + (f", aim {figure.aim:g}" if figure.aim is not None else ""),
            f"{figure.value:.3f}",
            figure.value,
            figure.met,
            f"pairs {min(figure.values):.3f} to {max(figure.values):.3f}" if figure.values else "",
        )
        for figure in measured.figures
    ]
