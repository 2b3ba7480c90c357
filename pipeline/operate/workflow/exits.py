"""Exit statuses of the workflow commands, and how faults are told."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import click

from pipeline.workflow.errors import Fault
from pipeline.workflow.states import RunState

OK = 0
FAILED = 1
REFUSED = 2  # a definition, its inputs or the command line are wrong: nothing was started
PARTIAL = 3
CANCELLED = 4
UNREACHABLE = 5  # the daemon, or the journal

_OF_STATES = {RunState.FAILED: FAILED, RunState.PARTIAL: PARTIAL, RunState.CANCELLED: CANCELLED}


class Ended(click.ClickException):
    """Ends the command with this exit status and this message."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.__dict__["exit_code"] = status  # click declares it for the class

    def show(self, file: IO[Any] | None = None) -> None:
        """Each line says that it is an error, but for remarks in brackets: there may be several."""
        for line in self.format_message().splitlines():
            click.echo(line if line.startswith("(") else f"Error: {line}", file=file, err=file is None)


def status_of(state: RunState) -> int:
    """0 for a run that has not ended, too."""
    return _OF_STATES.get(state, OK)


def told(faults: Iterable[Fault], file: Path | str = "") -> list[str]:
    """`FILE:LINE:COL where: message (hint)`, as far as it is known."""
    return [_told(fault, str(file)) for fault in faults]


def _told(fault: Fault, file: str) -> str:
    place = file
    if fault.line:
        place = f"{file or '-'}:{fault.line}:{fault.column}"
    elif file:
        place = f"{file}:1:1"
    hint = f" ({fault.hint})" if fault.hint else ""
    where = f"{fault.where}: " if fault.where else ""
    return f"{place} {where}{fault.message}{hint}".lstrip()


def refused(faults: Iterable[Fault], file: Path | str = "") -> Ended:
    return Ended("\n".join(told(faults, file)), REFUSED)
