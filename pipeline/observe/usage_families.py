"""Usage as metrics. For the supervisor only, like `exposition`."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from pipeline.observe.usage import DIMENSIONS, UsageTable

SERIES = 1000  # of both metrics together; whoever comes later is in the sum of the others
_TYPES = ("prompt", "completion", "cached", "reasoning", "estimated")
_MOST = SERIES // (len(_TYPES) + 1) - 1


def families(table: UsageTable) -> Iterator[Metric]:
    tokens = CounterMetricFamily(
        "headgate_usage_tokens",
        "Tokens used. cached is a part of prompt, reasoning of completion, estimated of both.",
        labels=(*DIMENSIONS, "type"),
    )
    requests = CounterMetricFamily(
        "headgate_usage_requests", "Ended requests that a worker was called for.", labels=DIMENSIONS
    )
    for who, counts in table.series(_MOST):
        requests.add_metric(who, counts.requests)
        for kind in _TYPES:
            tokens.add_metric((*who, kind), getattr(counts, f"{kind}_tokens"))
    yield from (tokens, requests)
