"""Hosts, files and the log, as far as the configuration allows them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from config.schema import WorkflowsSection
from pipeline.adapters.outside.files import Files
from pipeline.adapters.outside.hosts import AllowedHosts
from pipeline.adapters.outside.http import Answer, Requests
from pipeline.workflow.errors import StepFailed

MAX_LOGGED = 10_000  # characters of a message
_MAX_FIELD = 500  # characters

_log = structlog.get_logger("headgate.workflow")
# Terminals obey them, and a line must stay one.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), 127, *range(128, 160)) if code not in {9, 10}}


class RealOutside:
    """`pipeline.workflow.ports.Outside`. Nothing is allowed that `section` does not name."""

    def __init__(self, section: WorkflowsSection) -> None:
        hosts = AllowedHosts(section.hosts)
        self._requests = Requests(hosts, section.max_value_bytes, section.action_timeout_ms / 1000)
        self._files = None if section.files_dir is None else Files(Path(section.files_dir))
        self._limit = section.max_value_bytes

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> Answer:
        return await self._requests.send(method, url, headers, body, seconds)

    async def write(self, path: str, content: bytes, *, append: bool, key: str) -> str:
        """A write that has begun is finished, also where the step is cancelled."""
        if self._files is None:
            raise StepFailed("not_allowed", "no files may be written: workflows.files_dir is not set")
        if len(content) > self._limit:
            message = f"content: {len(content)} bytes, where max_value_bytes allows {self._limit}"
            raise StepFailed("too_large", message, details={"field": "content"})
        return await asyncio.to_thread(self._files.write, path, content, append=append, key=key)

    def log(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """A line `workflow_log`; long texts by their beginning."""
        shown = {name: _clean(value, _MAX_FIELD) for name, value in fields.items()}
        getattr(_log, level)("workflow_log", **{**shown, "message": _clean(message, MAX_LOGGED)})

    async def aclose(self) -> None:
        await self._requests.aclose()


def _clean(value: Any, most: int) -> Any:
    if not isinstance(value, str):
        return value
    text = value if len(value) <= most else f"{value[: most - 1]}…"
    return text.translate(_CONTROLS)
