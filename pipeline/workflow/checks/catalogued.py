"""Routes, collections and workers that a workflow names: whether they are there. And what it may reach outside."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.workflow.definition import ActionStep, EmbedStep, LlmStep, VectorSearchStep, VectorUpsertStep
from pipeline.workflow.ports import Catalog
from pipeline.workflow.problems import Path, Problems, listed

_HOST = re.compile(r"(https?://[^/?#\s{}]+)(?:[/?#]|\Z)", re.IGNORECASE)


class Catalogued:
    """Looks up what is written out; names that a template makes are looked up when the step runs."""

    def __init__(self, catalog: Catalog | None, problems: Problems) -> None:
        self._catalog = catalog
        self._problems = problems
        self._routes = dict.fromkeys(catalog.routes()) if catalog is not None else {}
        self._collections = dict.fromkeys(catalog.collections()) if catalog is not None else {}
        self._served: dict[tuple[str, str | None], bool] = {}

    def step(self, path: Path, step: Any, values: Mapping[str, Any]) -> None:
        if self._catalog is None:
            return
        if isinstance(step, LlmStep | EmbedStep) and "route" not in values:
            self._route(path, step)
        if isinstance(step, EmbedStep | VectorSearchStep | VectorUpsertStep) and "collection" not in values:
            self._known((*path, "collection"), "collection", step.collection, self._collections)
        if isinstance(step, LlmStep) and step.provider is not None and not self._serves(step.provider, step.model):
            wanted = step.provider if step.model is None else f"{step.provider} with the model {step.model}"
            self._problems.add((*path, "provider"), f"no route leads to {wanted}")

        if isinstance(step, ActionStep):
            self._outside(path, step)

    def _outside(self, path: Path, step: ActionStep) -> None:
        """Of an address the host is enough, where that is written out."""
        assert self._catalog is not None  # noqa: S101 - the caller has looked
        if step.action == "file_write" and not self._catalog.files():
            self._problems.add((*path, "action"), "no files may be written: workflows.files_dir is not set")
        calls = step.action in {"http_request", "webhook"} and isinstance(step.url, str)
        host = _HOST.match(str(step.url)) if calls else None
        if host is not None and not self._catalog.allows(host[1]):
            shown = host[1].partition("://")[2].rpartition("@")[2]
            self._problems.add((*path, "url"), f"the host {shown[:200]} is not among those of workflows.hosts")

    def _route(self, path: Path, step: LlmStep | EmbedStep) -> None:
        assert self._catalog is not None  # noqa: S101 - the caller has looked
        place = (*path, "route")
        if self._known(place, "route", step.route, self._routes) and isinstance(step, EmbedStep):
            assert isinstance(step.route, str)  # noqa: S101 - it is known
            if not self._catalog.embeds(step.route):
                self._problems.add(place, f"the route {step.route!r} leads to a worker that makes no vectors")

    def _known(self, place: Path, kind: str, name: Any, known: Mapping[str, None]) -> bool:
        if not isinstance(name, str):
            return False  # not given, or of the wrong type, which is told elsewhere
        if name in known:
            return True
        hint = self._problems.near(name, known)
        self._problems.add(
            place, f"there is no {kind} {name!r}", hint or (f"there are {listed(known)}" if known else "there are none")
        )
        return False

    def _serves(self, provider: str, model: str | None) -> bool:
        assert self._catalog is not None  # noqa: S101 - the caller has looked
        key = (provider, model)
        if key not in self._served:
            self._served[key] = self._catalog.route_of(provider, model) is not None
        return self._served[key]
