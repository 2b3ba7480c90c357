"""Figures as people read them: three digits that mean something, and the unit beside them."""

NOTHING = "–"  # noqa: RUF001  what stands where a figure does not exist


def duration(seconds: float | None) -> str:
    """`850 µs`, `712 ms`, `1.32 s`, `2 min 5 s`."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{_digits(seconds * 1e3)} ms"
    if seconds < 120:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate(per_second: float | None) -> str:
    return NOTHING if per_second is None else f"{_digits(per_second)}/s"


def count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def percent(share: float | None) -> str:
    """One decimal; what is not all is never shown as `100.0 %`, and what is not nothing never as `0.0 %`."""
    if share is None:
        return NOTHING
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %" if share > 0.9995 else "99.9 %"
    return f"{share * 100:.1f} %"


def ratio(factor: float | None) -> str:
    return NOTHING if factor is None else f"{_digits(factor)} ×"  # noqa: RUF001


def size(octets: int | None) -> str:
    if octets is None:
        return NOTHING
    return f"{_digits(octets / 2**20)} MiB" if octets < 2**30 else f"{_digits(octets / 2**30)} GiB"


def cores(number: float | None) -> str:
    return NOTHING if number is None else f"{number:.2f} cores"


def number(value: float | None) -> str:
    return NOTHING if value is None else _digits(value)


def plain(text: str, most: int = 60) -> str:
    """Text from outside, for people: no control characters (terminals obey them), not endless."""
    shown = "".join(letter if letter.isprintable() else "·" for letter in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def fraction(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def some(number: int, one: str, many: str | None = None) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _digits(value: float) -> str:
    """Three significant digits, no exponent, thousands apart."""
    size = abs(value)
    if size >= 99.95 or size == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}" if size >= 0.0095 else f"{value:.2g}"
