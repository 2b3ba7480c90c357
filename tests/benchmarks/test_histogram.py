"""The histogram beside the sorted values."""

import math
from random import Random

import msgspec
import pytest

from benchmarks.histogram import SMALLEST, Histogram


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_percentiles_are_within_half_a_per_cent(share: float):
    random = Random(7)
    values = [random.lognormvariate(-3, 1.5) for _ in range(20_000)]
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert histogram.percentile(share) == pytest.approx(exact, rel=0.0051)
    assert histogram.mean() == pytest.approx(sum(values) / len(values))
    assert len(histogram.buckets) < 1500


def test_one_value_is_all_percentiles():
    histogram = Histogram()
    histogram.add(0.123, 5)
    assert histogram.percentile(0.0) == histogram.percentile(1.0) == 0.123
    assert (histogram.least, histogram.most, histogram.count) == (0.123, 0.123, 5)


def test_an_empty_one_has_none():
    assert Histogram().percentile(0.5) is None
    assert Histogram().mean() is None


def test_the_shortest_and_zero_are_one_bucket():
    histogram = Histogram()
    histogram.add(0.0)
    histogram.add(SMALLEST / 2)
    assert histogram.buckets == {0: 2}
    assert histogram.percentile(0.5) == histogram.percentile(0.99) == SMALLEST / 2


def test_merging_is_adding_all():
    whole, parts = Histogram(), [Histogram(), Histogram(), Histogram()]
    for number in range(1, 300):
        whole.add(number / 1000)
        parts[number % 2].add(number / 1000)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    parts[2].merge(Histogram())
    assert parts[2].buckets == whole.buckets
    assert (parts[2].least, parts[2].most, parts[2].count) == (whole.least, whole.most, whole.count)


def test_json_keeps_it():
    histogram = Histogram()
    histogram.add(0.5)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram
