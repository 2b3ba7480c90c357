"""Which steps can run at all: constant conditions, cases that are never taken, branches that exclude each other.

For each step it is kept under which cases of which branches alone it can run. That is kept for so many branches only:
where there are more, something unreachable may pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.workflow.definition import BranchStep
from pipeline.workflow.plan import Gate
from pipeline.workflow.problems import Path, Problems, listed
from pipeline.workflow.scopes import Scope

Cases = frozenset[int | str]
Under = dict[int, Cases]  # branch -> the cases under which alone it runs

_KEPT = 32


class Reach:
    """Of one list of steps. `order`: each after all that it needs. `truth`: of constant conditions, by path."""

    def __init__(
        self, scope: Scope, gates: Mapping[int, Sequence[Gate]], truth: Mapping[Path, bool], problems: Problems
    ) -> None:
        self._scope = scope
        self._gates = gates
        self._truth = truth
        self._problems = problems
        self._under: list[Under] = [{} for _ in scope.steps]
        self._taken: dict[int, Cases] = {}  # of each branch, the cases that can be taken
        self.dead: set[int] = set()

    def run(self, order: Sequence[int]) -> None:
        for index in order:
            reason = self._reason(index)
            step = self._scope.steps[index]
            if reason:
                self.dead.add(index)
                self._problems.add((*self._scope.path, index), f"never runs: {reason}")
            elif isinstance(step, BranchStep):
                self._cases(index, step)

    def _reason(self, index: int) -> str:
        step = self._scope.steps[index]
        if step.condition is not None and not self._truth.get((*self._scope.path, index, "condition"), True):
            return "its condition is always false"
        gates = self._gates.get(index, ())
        free = self._scope.edges[index] - {gate.branch for gate in gates} if gates else self._scope.edges[index]
        live = [need for need in free if need not in self.dead] if self.dead else list(free)
        if free and not live:
            return f"all that it depends on never runs ({self._named(sorted(free))})"
        self._under[index] = self._either(live)
        for gate in gates:
            reason = self._gated(index, gate)
            if reason:
                return reason
        return ""

    def _either(self, needs: Sequence[int]) -> Under:
        """One of them is enough: what they have in common."""
        if not needs:
            return {}
        common = self._under[needs[0]]
        for need in needs[1:]:
            if not common:
                return common
            other = self._under[need]
            if other is not common:
                common = {branch: cases | other[branch] for branch, cases in common.items() if branch in other}
        return common

    def _gated(self, index: int, gate: Gate) -> str:
        branch = self._scope.steps[gate.branch].id
        if gate.branch in self.dead:
            return f"the branch {branch} never runs"
        if not gate.cases & self._taken[gate.branch]:
            return f"no case of {branch} that names it is ever taken"
        both = dict(self._under[index])
        for other, cases in (*self._under[gate.branch].items(), (gate.branch, gate.cases)):
            both[other] = both[other] & cases if other in both else cases
            if not both[other]:
                return f"{self._scope.steps[other].id} would have to take two cases at once"
        self._under[index] = both if len(both) <= _KEPT else {gate.branch: both[gate.branch]}
        return ""

    def _cases(self, index: int, step: BranchStep) -> None:
        """A case after one that is always true is never taken, nor is one that is always false."""
        taken: set[int | str] = set()
        path = (*self._scope.path, index)
        always: int | None = None
        for number, case in enumerate(step.cases):
            truth = self._when(path, number, case.when)
            if always is not None:
                self._never((*path, "cases", number), f"case {always + 1} is always true")
            elif truth is False:
                self._never((*path, "cases", number), "its condition is always false")
            else:
                taken.add(number)
                always = number if truth else None
        if always is None:
            taken.add("default")
        elif step.default:
            self._never((*path, "default"), f"case {always + 1} is always true")
        self._taken[index] = frozenset(taken)

    def _when(self, path: Path, number: int, when: Any) -> bool | None:
        return when if isinstance(when, bool) else self._truth.get((*path, "cases", number, "when"))

    def _never(self, path: Path, reason: str) -> None:
        self._problems.add(path, f"never taken: {reason}")

    def _named(self, nodes: Sequence[int]) -> str:
        return listed([self._scope.steps[node].id for node in nodes])
