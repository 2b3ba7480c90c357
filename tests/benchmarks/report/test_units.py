import pytest

from benchmarks.report import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 µs"),
        (0.000_85, "850 µs"),
        (0.000_999_9, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (0.7124, "712 ms"),
        (0.999_9, "1.00 s"),
        (1.318, "1.32 s"),
        (119.0, "119 s"),
        (125.2, "2 min 5 s"),
        (179.7, "3 min 0 s"),
        (9000.0, "2 h 30 min"),
    ],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0.0 %"),
        (0.000_01, "<0.1 %"),
        (0.4821, "48.2 %"),
        (0.9999, ">99.9 %"),
        (1.0, "100.0 %"),
        (1.03, "103.0 %"),
    ],
)
def test_what_is_not_all_is_not_shown_as_all(share, text):
    assert units.percent(share) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "–"), (0.0, "0/s"), (0.034, "0.03/s"), (78.06, "78.1/s"), (12_345.6, "12,346/s")]
)
def test_rates(rate, text):
    assert units.rate(rate) == text


def test_sizes():
    assert [units.size(value) for value in (None, 85 * 2**20, 3 * 2**30)] == ["–", "85.0 MiB", "3.00 GiB"]


def test_text_from_outside_commands_no_terminal_and_is_not_endless():
    assert units.plain("a\x1b[31mb\r\nc\u202ed\ud800") == "a·[31mb··c·d·"
    assert units.plain("x" * 100, 10) == "x" * 9 + "…"
    assert units.plain("x" * 10, 10) == "x" * 10
