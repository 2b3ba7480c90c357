import pytest

from pipeline.process import demand
from tests.flows import config

PLAIN = {"name": "plain", "worker": "echo"}
DOCS = {"name": "docs", "worker": "echo", "collection": "handbook"}
LENIENT = DOCS | {"name": "lenient", "on_retrieval_failure": "answer"}


@pytest.mark.parametrize(
    ("routes", "wanted", "essential"),
    [
        ([PLAIN], False, False),
        ([DOCS], True, True),
        ([PLAIN, DOCS], True, True),
        ([LENIENT, DOCS], True, True),
        ([PLAIN, LENIENT], True, False),
    ],
)
def test_who_needs_the_knowledge_process(routes, wanted, essential):
    configured = config(routes=routes, collections=[{"name": "handbook"}])
    assert demand.wants_knowledge(configured) is wanted
    assert demand.depends_on_knowledge(configured) is essential


def test_counters_follow_routes_and_their_workers():
    layout = demand.layout(config(routes=[PLAIN, DOCS]))
    assert list(layout.routes) == ["-", "plain", "docs"]
    assert list(layout.workers) == ["echo"]
