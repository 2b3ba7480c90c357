"""Plans of bundles, made once and kept while there is room."""

from collections import OrderedDict
from collections.abc import Callable

from pipeline.workflow.journal import Bundle
from pipeline.workflow.plan import Plan

MAX_STEPS = 100_000  # of all plans that are kept


class Plans:
    """The plans used last are kept, as long as they have no more than so many steps together."""

    def __init__(self, planned: Callable[[Bundle], Plan], max_steps: int = MAX_STEPS) -> None:
        self._planned = planned
        self._max_steps = max_steps
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._steps = 0

    def get(self, digest: str) -> Plan | None:
        plan = self._plans.get(digest)
        if plan is not None:
            self._plans.move_to_end(digest)
        return plan

    def of(self, bundle: Bundle) -> Plan:
        """Raises `DefinitionRefused`."""
        plan = self.get(bundle.digest)
        if plan is None:
            plan = self._plans[bundle.digest] = self._planned(bundle)
            self._steps += plan.steps
            while self._steps > self._max_steps and len(self._plans) > 1:
                _, oldest = self._plans.popitem(last=False)
                self._steps -= oldest.steps
        return plan
