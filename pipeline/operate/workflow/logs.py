"""What is logged while a workflow runs in this process."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


class _Stderr:
    """Wherever standard error goes now: a live tree redirects it, so that lines stand above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def log_to_stderr() -> None:
    """What `log` steps say, and warnings of everything else."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.format_exc_info, _line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]
    )


def _line(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """A step's own words as they are, all else with what it is about."""
    level, what = event.pop("level"), event.pop("event")
    if what == "workflow_log":
        return f"{event.get('step', '-')}: log {level}: {event.get('message', '')}"
    return " ".join([f"{level}: {what}", *(f"{name}={value}" for name, value in event.items())])
