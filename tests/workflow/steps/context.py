"""What a leaf step is given, without an engine: fields come from the step, or from what the test filled in."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from pipeline.workflow.ports import Catalog, Knowledge, Outside, Prompts, Services


class Routes:
    """A `Catalog` of routes by provider and model."""

    def __init__(self, routes: Mapping[tuple[str, str | None], str] | None = None) -> None:
        self._routes = dict(routes or {})

    def routes(self) -> Sequence[str]:
        return list(self._routes.values())

    def collections(self) -> Sequence[str]:
        return []

    def embeds(self, route: str) -> bool:
        return route in self._routes.values()

    def route_of(self, provider: str, model: str | None) -> str | None:
        return self._routes.get((provider, model))

    def allows(self, url: str) -> bool:
        return url == "http://allowed.test"

    def files(self) -> bool:
        return False


class Context:
    """A `StepContext`. `filled` are fields (dotted) whose templates have been filled in."""

    def __init__(
        self,
        step: Any,
        *,
        prompts: Prompts | None = None,
        knowledge: Knowledge | None = None,
        outside: Outside | None = None,
        catalog: Catalog | None = None,
        filled: Mapping[str, Any] | None = None,
        remaining: float | None = 20.0,
    ) -> None:
        self.run_id = "run-1"
        self.path = step.id
        self.attempt = 1
        self.caller = "-"
        self.priority = 2
        self.underway = False
        self.services = Services(prompts, knowledge, outside)  # type: ignore[arg-type]
        self.catalog: Catalog = catalog or Routes()
        self.remaining = remaining
        self.emitted: list[str] = []
        self._step = step
        self._filled = dict(filled or {})

    @property
    def idempotency_key(self) -> str:
        return "ab" * 32

    def value(self, field: str, **local: Any) -> Any:
        if field in self._filled:
            return self._filled[field]
        found = self._step
        for part in field.split("."):
            if isinstance(found, dict):
                found = found[part]
            elif isinstance(found, list):
                found = found[int(part)]
            else:
                found = getattr(found, part, UNSET)
        return found

    async def turn(self) -> None:
        await asyncio.sleep(0)

    def emit(self, text: str) -> None:
        self.emitted.append(text)
