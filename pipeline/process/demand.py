"""What a configuration asks of the processes."""

import os

from config.schema import Config, ServerSection
from pipeline.observe.layout import MetricsLayout

# For routes and workers that come later. A route takes some 240 cells, with 20 more for each of its workers, and a
# worker 25: this is enough for 2,000 routes with ten workers each. Memory that is not used is not had.
_SPARE_CELLS = 1 << 20


def shards(server: ServerSection) -> int:
    """How many processes serve: as many as this one may use cores, if nothing else was said."""
    return len(os.sched_getaffinity(0)) if server.shards == "auto" else server.shards


def counted(config: Config) -> dict[str, list[str]]:
    """The routes that are counted, each with its workers: a step in the history of a `MetricsLayout`."""
    return {route.name: [share.worker for share in route.shares] for route in config.routes}


def layout(config: Config) -> MetricsLayout:
    """Of a daemon that begins with this configuration."""
    return MetricsLayout([counted(config)])


def room(size: int) -> int:
    """Cells of a shard's block where `size` are needed now."""
    return 2 * size + _SPARE_CELLS


def wants_knowledge(config: Config) -> bool:
    """Whether there must be a knowledge process."""
    return any(route.collection is not None for route in config.routes)


def depends_on_knowledge(config: Config) -> bool:
    """Whether there is a route that cannot answer without it."""
    return any(route.collection is not None and route.on_retrieval_failure == "fail" for route in config.routes)
