"""How late the generator itself was: what it measures is only as true as it is punctual."""

import resource

from benchmarks.histogram import Histogram
from benchmarks.report.model import Lag

THRESHOLD = 0.010
_LONG = 0.25  # one send that is so late is worth a note, others only where they are more than a few and 1 %
_FEW = 5
_TOGETHER = 1.0  # late sends that are nearer than this belong to one stretch
_STRETCHES = 100


class Punctuality:
    """Notes each send. Times in seconds of the loop's clock, `began` is the run's start."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._cpu = _cpu()
        self.lag = Histogram()
        self.late = 0
        self.peak_in_flight = 0
        self._behind: list[tuple[float, float, float]] = []

    def sent(self, intended: float, actual: float) -> None:
        lag = max(actual - intended, 0.0)
        self.lag.add(lag)
        if lag > THRESHOLD:
            self.late += 1
            self._note(intended - self._began, actual - self._began, lag)

    def _note(self, begin: float, end: float, lag: float) -> None:
        if self._behind:
            last = self._behind[-1]
            if begin - last[1] < _TOGETHER or len(self._behind) >= _STRETCHES:
                self._behind[-1] = (last[0], max(last[1], end), max(last[2], lag))
                return
        self._behind.append((begin, end, lag))

    def result(self, now: float, connections: int, resent: int) -> Lag:
        return Lag(
            threshold=THRESHOLD,
            lag=self.lag,
            behind=self._behind,
            cores=(_cpu() - self._cpu) / max(now - self._began, 1e-9),
            peak_in_flight=self.peak_in_flight,
            connections=connections,
            resent=resent,
        )

    def note(self) -> str | None:
        """What a reader has to know, None while the generator kept its own times."""
        worst = self.lag.most
        if worst < _LONG and (self.late <= _FEW or self.late < 0.01 * self.lag.count):
            return None
        begin, end, _ = max(self._behind, key=lambda stretch: stretch[2])
        return (
            f"The generator fell behind itself: {self.late} of {self.lag.count} requests were sent more than "
            f"{THRESHOLD * 1000:.0f} ms late, the latest by {worst * 1000:.0f} ms (worst from {begin:.1f} s to "
            f"{end:.1f} s). Latencies count from the intended time, so they hold the generator's delay too: use a "
            "lower rate, a machine with more cores, or several generators."
        )


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
