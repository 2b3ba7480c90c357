"""A histogram of durations whose percentiles are right to within half a per cent, whatever their range."""

import math

import msgspec

GROWTH = 1.01
SMALLEST = 1e-6  # seconds; what is shorter counts as this
_SCALE = 1.0 / math.log(GROWTH)


class Histogram(msgspec.Struct):
    """Durations in seconds, in buckets whose bounds grow by 1 % (as in DDSketch: Masson, Rim and Lee, VLDB 2019).

    `buckets` maps an index to a count: bucket i holds values in (SMALLEST · GROWTH^(i-1), SMALLEST · GROWTH^i].
    """

    count: int = 0
    total: float = 0.0
    least: float = 0.0
    most: float = 0.0
    buckets: dict[int, int] = {}

    def add(self, seconds: float, times: int = 1) -> None:
        self.least = min(self.least, seconds) if self.count else seconds
        self.count += times
        self.total += seconds * times
        self.most = max(self.most, seconds)
        index = math.ceil(math.log(seconds / SMALLEST) * _SCALE) if seconds > SMALLEST else 0
        self.buckets[index] = self.buckets.get(index, 0) + times

    def merge(self, other: "Histogram") -> None:
        if other.count:
            self.least = min(self.least, other.least) if self.count else other.least
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)
        for index, times in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + times

    def percentile(self, share: float) -> float | None:
        """The smallest value that at least `share` (0 to 1) of all values do not exceed; None where there are none."""
        if not self.count:
            return None
        wanted = max(math.ceil(share * self.count), 1)
        for index in sorted(self.buckets):
            wanted -= self.buckets[index]
            if wanted <= 0:
                middle: float = SMALLEST * GROWTH ** (index - 0.5)
                return min(max(middle, self.least), self.most)
        return self.most

    def mean(self) -> float | None:
        return self.total / self.count if self.count else None
