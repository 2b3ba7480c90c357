"""What a configuration asks of the processes."""

from config.schema import Config
from pipeline.observe.layout import MetricsLayout


def layout(config: Config) -> MetricsLayout:
    """The counters that its routes and workers need; the same in every process."""
    return MetricsLayout({route.name: route.shares[0].worker for route in config.routes})


def wants_knowledge(config: Config) -> bool:
    """Whether there must be a knowledge process."""
    return any(route.collection is not None for route in config.routes)


def depends_on_knowledge(config: Config) -> bool:
    """Whether there is a route that cannot answer without it."""
    return any(route.collection is not None and route.on_retrieval_failure == "fail" for route in config.routes)
