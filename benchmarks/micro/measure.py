"""How a micro-benchmark is taken, and what it says of itself for `benchmarks.table` to show."""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, cast

from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")
Made = TypeVar("Made")

FRESH_ROUNDS = 2000  # in a second


class Said(TypedDict):
    """A benchmark's `extra_info`. One round handles `units` of `unit` (tokens, requests, …). A `yardstick` is somebody
    else's way to do the same; the others of its group are compared with it, unit for unit."""

    name: str
    units: int
    unit: str
    yardstick: bool


class Measure:
    """The fixture `measure`; to be called once in a benchmark. `seconds` is how long it may take."""

    def __init__(self, benchmark: BenchmarkFixture, seconds: float) -> None:
        self._benchmark = benchmark
        self._fresh_rounds = max(int(FRESH_ROUNDS * seconds), 5)

    def __call__(
        self,
        name: str,
        work: Callable[[], T],
        *,
        units: int,
        unit: str,
        group: str | None = None,
        yardstick: bool = False,
    ) -> T:
        """Times `work` again and again; returns what it returned at last, so that the work can be checked."""
        self._say(name, units, unit, group, yardstick=yardstick)
        return cast(T, self._benchmark(work))

    def fresh(self, name: str, make: Callable[[], Made], work: Callable[[Made], T], *, units: int, unit: str) -> T:
        """`work` is given something that `make` made just before, which is not timed: for work that uses it up."""
        self._say(name, units, unit, None, yardstick=False)
        pedantic: Callable[..., T] = cast(Any, self._benchmark).pedantic
        return pedantic(work, setup=lambda: ((make(),), {}), rounds=self._fresh_rounds, warmup_rounds=5)

    def _say(self, name: str, units: int, unit: str, group: str | None, *, yardstick: bool) -> None:
        self._benchmark.group = group
        self._benchmark.extra_info.update(Said(name=name, units=units, unit=unit, yardstick=yardstick))
