"""What a configuration asks of the processes."""

import os

from config.schema import Config, ServerSection
from pipeline.observe.layout import Counted, MetricsLayout

# For routes, workers and replicas that come later. A route takes some 240 cells, with 20 more for each of its workers,
# a worker 30, and a replica 6: this is enough for 2,000 routes with ten workers each. Memory that is not used is not
# had.
_SPARE_CELLS = 1 << 20


def shards(server: ServerSection) -> int:
    """How many processes serve: as many as this one may use cores, if nothing else was said."""
    return len(os.sched_getaffinity(0)) if server.shards == "auto" else server.shards


def counted(config: Config) -> Counted:
    """The routes that are counted, each with whoever may come to serve it, and these workers' replicas: a step in the
    history of a `MetricsLayout`."""
    routes = {route.name: route.all_workers for route in config.routes}
    used = {worker for workers in routes.values() for worker in workers}
    return Counted(routes, {worker.name: worker.replica_names for worker in config.workers if worker.name in used})


def layout(config: Config) -> MetricsLayout:
    """Of a daemon that begins with this configuration."""
    return MetricsLayout([counted(config)])


def room(size: int) -> int:
    """Cells of a shard's block where `size` are needed now."""
    return 2 * size + _SPARE_CELLS


def wants_knowledge(config: Config) -> bool:
    """Whether there must be a knowledge process. Steps of workflows may use any collection, whichever routes do."""
    used = any(route.collection is not None for route in config.routes)
    return used or (config.workflows.enabled and bool(config.collections))


def depends_on_knowledge(config: Config) -> bool:
    """Whether there is a route that cannot answer without it."""
    return any(route.collection is not None and route.on_retrieval_failure == "fail" for route in config.routes)
