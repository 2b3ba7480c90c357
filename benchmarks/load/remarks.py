"""What a reader of a report has to know before believing its figures."""

from collections.abc import Iterator

from benchmarks.load.driver import Driver
from benchmarks.load.scenario import Scenario
from benchmarks.report.model import PhaseReport

_ENOUGH_PATIENCE = 5  # times its clients' patience that an overload has to last before its queue is at its longest
_TOO_GOOD = 1.05


def of_generator(driver: Driver) -> Iterator[str]:
    """What a reader has to know before believing the figures."""
    late = driver.punctuality.note()
    if late is not None:
        yield late
    if driver.too_late:
        yield f"{driver.too_late} requests were not sent, because the generator was more than 5 s behind."
    if driver.refused_here:
        yield (
            f"{driver.refused_here} requests were not sent, because {driver.scenario.max_in_flight} were in flight, "
            "which is the scenario's `max_in_flight`."
        )
    if driver.limited:
        yield f"The run stopped sending at the scenario's `max_requests` of {driver.scenario.max_requests}."
    if driver.short:
        yield (
            f"{driver.short} requests were not sent, because the generator had no file descriptor or port left "
            "(ulimit -n)."
        )


def of_scenario(scenario: Scenario, reports: list[PhaseReport]) -> Iterator[str]:
    """What a scenario cannot show as it is."""
    patience = max((kind.deadline_ms or 1000 * scenario.hang_seconds) / 1000 for kind in scenario.requests)
    for report in reports:
        if report.warmup:
            continue
        if report.load is not None and report.load > 1 and report.seconds < _ENOUGH_PATIENCE * patience:
            yield (
                f"Phase {report.name} lasts {report.seconds:.1f} s, and its clients wait for up to {patience:g} s: too "
                f"short for a queue to show what it does. {_ENOUGH_PATIENCE * patience:g} s or more would."
            )
        share = report.oracle.share if report.oracle is not None else None
        if share is not None and share > _TOO_GOOD and report.counts.completed > 100:
            yield (
                f"In phase {report.name} the target completed more than the oracle, which lets no request wait for "
                f"more than {scenario.wait_budget_ms:g} ms and has clients ask once: compare shares only between runs "
                "of the same scenario, or raise `wait_budget_ms`."
            )
