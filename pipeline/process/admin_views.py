"""What the admin API shows of a running daemon."""

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from config.edit import find_route, find_worker, shown
from config.paths import dotted, leaves
from config.schema import AnyWorker, Config, RouteSection
from config.show import MASK
from pipeline.observe import overview
from pipeline.observe.overview import Counters, RequestFigures, StageOverview, WorkerFigures
from pipeline.process.admin_types import DaemonStatus, RouteStatus, ShardStatus, Share, WorkerStatus
from pipeline.process.control import Control


class Views:
    """`control` and `counters` are the supervisor's; `address` tells where the API can be reached."""

    def __init__(self, control: Control, counters: Counters, address: Callable[[], str]) -> None:
        self._control = control
        self._counters = counters
        self._address = address

    def status(self) -> DaemonStatus:
        found: DaemonStatus = self._control.status()
        circuit_open = sum(route.circuit_open for route in overview.routes(self._counters).values())
        return replace(found, admin=self._address(), circuit_open=circuit_open)

    def shards(self) -> list[ShardStatus]:
        """In order, also those that are down."""
        processes = self.status().processes
        return [
            ShardStatus(shard, [process for process in processes if process.shard == shard], figures)
            for shard, figures in sorted(overview.shards(self._counters).items())
        ]

    def stages(self) -> list[StageOverview]:
        return overview.stages(self._counters)

    def workers(self) -> list[WorkerStatus]:
        config = self._control.config
        figures = overview.workers(self._counters)
        return [_worker(worker, config, figures) for worker in config.workers]

    def worker(self, name: str) -> WorkerStatus:
        """Raises NotConfigured."""
        config = self._control.config
        return _worker(find_worker(config, name), config, overview.workers(self._counters))

    def routes(self) -> list[RouteStatus]:
        figures = overview.routes(self._counters)
        return [_route(route, figures) for route in self._control.config.routes]

    def route(self, name: str) -> RouteStatus:
        """Raises NotConfigured."""
        return _route(find_route(self._control.config, name), overview.routes(self._counters))

    def config(self) -> dict[str, Any]:
        """Every key in force, as `headgate config show --json` says it, without the origins: what has been changed
        here comes from no file. No value of a header is shown."""
        keys = leaves(self._control.config)
        return {"keys": {dotted(path): {"value": MASK if _is_header(path) else value} for path, value in keys}}


def _worker(worker: AnyWorker, config: Config, figures: dict[str, WorkerFigures]) -> WorkerStatus:
    routes = [Share(route.name, share.weight) for route in config.routes for share in _of(route, worker.name)]
    kind = str(worker.__struct_config__.tag)
    fallback_of = [route.name for route in config.routes if worker.name in route.fallback]
    return WorkerStatus(worker.name, kind, worker.drain, routes, shown(worker), figures.get(worker.name), fallback_of)


def _of(route: RouteSection, worker: str) -> Iterable[Any]:
    return (share for share in route.shares if share.worker == worker)


def _route(route: RouteSection, figures: dict[str, RequestFigures]) -> RouteStatus:
    workers = [Share(share.worker, share.weight) for share in route.shares]
    return RouteStatus(route.name, workers, shown(route), figures.get(route.name))


def _is_header(path: tuple[str | int, ...]) -> bool:
    return len(path) > 1 and path[-2] == "headers"
