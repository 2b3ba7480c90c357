"""What a target can do: found by asking with more and more requests at once, until more bring no more."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from benchmarks.load.scenario import Kind, Phase, Retries, Scenario
from benchmarks.report.model import Capacity

STEP_SECONDS = 2.0
MOST_AT_ONCE = 1024
GAIN = 1.05  # a step that brings less than this is the last one
_MOST_SECONDS = 90.0
_ENOUGH = 20  # requests completed in a step, before its rate means anything

Measure = Callable[[Scenario], Awaitable[tuple[int, float]]]


class NoCapacity(Exception):
    """Raised when not even one request at a time completes; says what was tried."""


async def find(scenario: Scenario, measure: Measure, say: Callable[[str], None]) -> Capacity:
    """Closed loop with 1, 2, 4, … clients that wait for their answers, so that the target is never pushed far over.

    `measure` runs a scenario of one closed phase and returns how many requests completed while it lasted, and its
    seconds. Raises NoCapacity.
    """
    clock = asyncio.get_running_loop().time
    steps: list[tuple[int, float]] = []
    until = clock() + _MOST_SECONDS
    clients = 1
    while clients <= min(MOST_AT_ONCE, scenario.max_in_flight) and clock() < until:
        rate = await _step(scenario, clients, measure)
        say(f"finding the capacity: {clients} at a time, {rate:.1f}/s")
        if steps and rate < GAIN * max(found for _, found in steps):
            steps.append((clients, rate))
            break
        steps.append((clients, rate))
        clients *= 2
    in_flight, best = max(steps, key=lambda step: step[1])
    if best <= 0:
        raise NoCapacity(f"no request completed, with {', '.join(str(clients) for clients, _ in steps)} at a time")
    return Capacity(rate=best, how="found", in_flight=in_flight, steps=steps)


async def _step(scenario: Scenario, clients: int, measure: Measure) -> float:
    completed, took = await measure(_closed(scenario, clients, STEP_SECONDS))
    if 0 < completed < _ENOUGH:  # a slow target: the same again, for as long as it needs
        seconds = min(_ENOUGH / (completed / took), 10.0)
        completed, took = await measure(_closed(scenario, clients, seconds))
    return completed / took


def _closed(scenario: Scenario, clients: int, seconds: float) -> Scenario:
    """The scenario's requests, sent by so many clients that neither leave nor try again."""
    patient: list[Kind] = [msgspec.structs.replace(kind, leave=None) for kind in scenario.requests]
    phase = Phase(name="capacity", seconds=seconds, arrivals="closed", clients=clients)
    return msgspec.structs.replace(scenario, phases=[phase], requests=patient, retries=Retries(max=0))
