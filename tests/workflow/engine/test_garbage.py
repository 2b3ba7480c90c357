"""What a run leaves goes at once: the collector, which shards ask for seldom, has nothing to find."""

import gc

import pytest

from pipeline.workflow.ledger import Ledger
from pipeline.workflow.run import Run
from tests.workflow.definitions import definition, llm
from tests.workflow.engine.lab import lab


@pytest.mark.alone
async def test_a_run_that_has_ended_is_in_no_circle():
    async with lab() as here:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await here.end(await here.submit(definition(llm("a", "one"), llm("b", "{{ steps.a.text }}"))))
            left = [one for one in gc.get_objects() if isinstance(one, Run | Ledger)]
            assert len(left) <= 2, left  # of the last one, whose lease may be on its way back
        finally:
            gc.enable()
