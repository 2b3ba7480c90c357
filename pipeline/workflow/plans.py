"""Plans of bundles, made once and kept while there is room."""

from collections import OrderedDict
from collections.abc import Callable

from pipeline.workflow.bundling import planned
from pipeline.workflow.journal import Bundle
from pipeline.workflow.plan import Plan

STEPS_KEPT = 100_000  # of plans altogether
PLANS_KEPT = 1024


class Plans:
    """Plans by their bundles' digests: those used last. The engine and whoever reads definitions share one."""

    def __init__(self, make: Callable[[Bundle], Plan] = planned) -> None:
        self._make = make
        self._kept: OrderedDict[str, Plan] = OrderedDict()
        self._steps = 0

    def of(self, what: Bundle) -> Plan:
        """Raises `DefinitionRefused`."""
        plan = self.get(what.digest)
        if plan is None:
            plan = self._make(what)
            self.keep(what.digest, plan)
        return plan

    def get(self, digest: str) -> Plan | None:
        plan = self._kept.get(digest)
        if plan is not None:
            self._kept.move_to_end(digest)
        return plan

    def keep(self, digest: str, plan: Plan) -> None:
        if digest in self._kept:
            return
        self._kept[digest] = plan
        self._steps += plan.steps
        while len(self._kept) > 1 and (self._steps > STEPS_KEPT or len(self._kept) > PLANS_KEPT):
            _, gone = self._kept.popitem(last=False)
            self._steps -= gone.steps
