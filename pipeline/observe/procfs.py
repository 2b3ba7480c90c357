"""What the kernel knows about a process, for metrics. Linux; on other systems nothing is reported."""

import os
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """CPU time is user and system together, in seconds."""

    resident_bytes: int
    cpu_seconds: float
    open_fds: int


def usage(pid: int) -> Usage | None:
    """None when there is no such process, or no /proc to read."""
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except (OSError, IndexError):
        return None
    user, system = int(fields[11]), int(fields[12])  # fields 14 and 15 of proc(5), counted from the one after the name
    return Usage(resident, (user + system) / _TICKS, descriptors)
