"""The states of runs and steps, and which may follow which."""

import enum


class RunState(enum.StrEnum):
    """`pending`: not begun. `waiting`: of it only waits are left. `partial`: it came to its end, but steps failed on
    the way (what it could not make is missing from its outputs)."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    WAITING = "waiting"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in FINAL


class StepState(enum.StrEnum):
    """`waiting`: a wait, with a time or a signal that ends it. `retrying`: between two attempts. `abandoned`: it was
    under way when its run ended."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    FAILED = "failed"
    ABANDONED = "abandoned"

    @property
    def final(self) -> bool:
        return self in {StepState.COMPLETED, StepState.SKIPPED, StepState.FAILED, StepState.ABANDONED}


FINAL = frozenset({RunState.COMPLETED, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED})
ACTIVE = frozenset(RunState) - FINAL

# A retry makes what has ended run again; nothing else leaves a final state.
_ENDS = frozenset({RunState.COMPLETED, RunState.PARTIAL, RunState.FAILED, RunState.CANCELLED})
NEXT: dict[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED}),
    RunState.RUNNING: _ENDS | {RunState.PAUSED, RunState.WAITING},
    RunState.WAITING: _ENDS | {RunState.RUNNING, RunState.PAUSED},
    RunState.PAUSED: frozenset({RunState.PENDING, RunState.RUNNING, RunState.CANCELLED, RunState.FAILED}),
    RunState.COMPLETED: frozenset({RunState.PENDING}),
    RunState.PARTIAL: frozenset({RunState.PENDING}),
    RunState.FAILED: frozenset({RunState.PENDING}),
    RunState.CANCELLED: frozenset({RunState.PENDING}),
}


def may_follow(state: RunState, following: RunState) -> bool:
    return following in NEXT[state]
