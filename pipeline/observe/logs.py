"""The logging of one process, set up once: structlog, with the standard library's loggers led into it.

Lines go to standard error: coloured text at a terminal, otherwise JSON, an object a line.
"""

import json
import logging
import os
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from config.schema import LoggingSection
from pipeline.core.ports import Hooks
from pipeline.observe.lines import LineWriter
from pipeline.observe.refusals import BoundedLog, LeftOut, Refusals, summary
from pipeline.observe.requests import ConsoleRequestLog, FaultLog, JsonRequestLog, PromptLog, for_people

_STDERR = 2
_OF_SEVERAL_LINES = ("exception", "frames")


# Libraries that log the headers of what they send and get at debug level, keys among them.
_HEADERS_LOGGED = ("httpcore", "httpx", "hpack", "h2", "urllib3")


class Logs:
    """Owns the process's log lines. `process` is named on each: "supervisor", "knowledge", "shard 0"."""

    def __init__(self, section: LoggingSection, process: str, descriptor: int = _STDERR) -> None:
        self.writer = LineWriter(descriptor)
        self._section = section
        self._process = process
        self._level = _number(section.level)
        self._logger = type("Logger", (structlog.make_filtering_bound_logger(logging.DEBUG),), {})
        terminal = os.isatty(descriptor)
        self._console = section.format == "console" or (section.format == "auto" and terminal)
        self._configure(colours=terminal and "NO_COLOR" not in os.environ)
        self.log: FilteringBoundLogger = structlog.get_logger()
        self.writer.on_recovery = self._report_dropped
        self._refusals = Refusals(section.refusals_per_s, self._report_left_out)
        self._requests = BoundedLog(
            ConsoleRequestLog(self.log) if self._console else JsonRequestLog(self.writer, process), self._refusals
        )
        self.on_level: Callable[[], None] = lambda: None

    @property
    def level(self) -> str:
        return logging.getLevelName(self._level).lower()

    def set_level(self, level: str) -> None:
        """Logs this level and above from now on, also where a logger is in use already. `hooks` may then be others:
        `on_level` is called. Raises KeyError for a level that there is not."""
        self._level = _number(level)
        _filter(self._logger, self._level)
        logging.getLogger().setLevel(self._level)
        self.on_level()

    def hooks(self) -> list[Hooks]:
        """What the configuration wants to be logged about requests; empty costs nothing."""
        hooks: list[Hooks] = []
        if self._level <= logging.INFO:
            hooks.append(self._requests)
        hooks.append(FaultLog(self.log, messages=self._section.prompts))
        if self._section.prompts and self._level <= logging.DEBUG:
            hooks.append(PromptLog(self.log))
        return hooks

    def close(self) -> None:
        """Writes what waits. Later lines are lost."""
        self._refusals.close()
        logging.getLogger().handlers.clear()
        self.writer.close()

    def _configure(self, *, colours: bool) -> None:
        processors: list[Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            self._name_process,
        ]
        if self._console:
            # Not the default traceback: it shows local variables, and so prompts.
            plain = structlog.dev.plain_traceback
            processors += [
                _printable,
                structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, sort_keys=False),
            ]
        else:
            processors += [structlog.processors.format_exc_info, _to_json]
        _filter(self._logger, self._level)
        structlog.configure(
            processors=processors,
            wrapper_class=self._logger,
            logger_factory=lambda *_: _Lines(self.writer),
            cache_logger_on_first_use=True,
        )
        logging.basicConfig(level=self._level, handlers=[_Forward(structlog.get_logger())], force=True)
        logging.captureWarnings(capture=True)
        for library in _HEADERS_LOGGED:
            logging.getLogger(library).setLevel(logging.INFO)

    def _name_process(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = self._process
        return event

    def _report_dropped(self, number: int) -> None:
        self.log.warning("log_lines_dropped", count=number)

    def _report_left_out(self, left_out: LeftOut) -> None:
        fields = summary(left_out)
        if self._console:
            fields = {key: for_people(value) for key, value in fields.items()}
        self.log.info("refusals_left_out", **fields)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _filter(logger: type, level: int) -> None:
    """Gives a class of loggers the methods of structlog's for this level, which do nothing for what is below. Loggers
    are kept where they were first used; so it is their class that has to change."""
    for name, method in vars(structlog.make_filtering_bound_logger(level)).items():
        if callable(method) and not name.startswith("__"):
            setattr(logger, name, method)


class _Lines:
    """What structlog writes to: the method's name was the level, which the line already says."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: str | bytes) -> None:
        self._writer.write((line.encode(errors="backslashreplace") if isinstance(line, str) else line) + b"\n")

    debug = info = warning = error = critical = exception = log = msg


class _Forward(logging.Handler):
    """Leads what libraries log with the standard library into structlog."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a line that cannot be rendered must not break the code that logs it
            self.handleError(record)


_encoder = msgspec.json.Encoder(enc_hook=repr)


def _to_json(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    """What every line has comes first, in the order of the `request` lines."""
    first = {key: event.pop(key) for key in ("event", "timestamp", "level", "process")}
    line = first | dict(event)
    try:
        return _encoder.encode(line)
    except (UnicodeEncodeError, OverflowError):  # text from outside that is no Unicode, a number beyond 64 bits
        return json.dumps(line, default=repr).encode()


def _printable(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text from outside must not write to the terminal what it likes."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable() and key not in _OF_SEVERAL_LINES:
            event[key] = repr(value)
    return event
