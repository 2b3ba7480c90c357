"""What is configured, as workflows ask for it."""

from collections.abc import Sequence

from config.schema import AnthropicWorker, AnyWorker, Config, ExtractiveWorker, RouteSection
from pipeline.adapters.outside.hosts import AllowedHosts
from pipeline.workflow.errors import StepFailed

_NO_EMBEDDERS = (AnthropicWorker, ExtractiveWorker)


class ConfigCatalog:
    """A `pipeline.workflow.ports.Catalog` over the configuration that is in force: `config` may be replaced, but for
    what workflows may reach outside, which needs a restart."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._hosts = AllowedHosts(config.workflows.hosts)
        self._files = config.workflows.files_dir is not None

    def routes(self) -> Sequence[str]:
        return [route.name for route in self.config.routes]

    def collections(self) -> Sequence[str]:
        return [collection.name for collection in self.config.collections]

    def embeds(self, route: str) -> bool:
        """Whether any of its workers is of a kind that may. False for a route that is not there."""
        return any(
            not isinstance(worker, _NO_EMBEDDERS)
            for found in self.config.routes
            if found.name == route
            for worker in self._workers(found)
        )

    def route_of(self, provider: str, model: str | None) -> str | None:
        """`provider`: a worker's name or kind. A worker that names no model passes on whatever is asked for; then, and
        where no model is asked for, any of its routes will do. A worker that names the model comes before one that
        names none."""
        for exact in (True, False):
            for route in self.config.routes:
                if any(_serves(worker, provider, model, exact=exact) for worker in self._workers(route)):
                    return route.name
        return None

    def allows(self, url: str) -> bool:
        try:
            self._hosts.checked(url)
        except StepFailed:
            return False
        return True

    def files(self) -> bool:
        return self._files

    def _workers(self, route: RouteSection) -> list[AnyWorker]:
        """Those that serve it while nothing is wrong."""
        named = {share.worker for share in route.shares}
        return [worker for worker in self.config.workers if worker.name in named]


def _serves(worker: AnyWorker, provider: str, model: str | None, *, exact: bool) -> bool:
    if provider not in {worker.name, worker.__struct_config__.tag}:
        return False
    own = getattr(worker, "model", None)
    return model is None or own == model or (not exact and own is None)
