"""A simulated backend as a process of its own, for whoever needs one for a while."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.service import Service


class NotStarted(Exception):
    """Raised when the backend ended before it listened; `status` is its exit status. What it said went to stderr."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the simulated backend did not start (exit status {status})")
        self.status = status


class Listening(msgspec.Struct):
    """The line that a backend prints when it listens."""

    urls: list[str]


def command(service: Service) -> list[str]:
    """How one with these settings is started, on a free port; it does not outlive the process that starts it."""
    settings = msgspec.structs.asdict(service).items()
    options = [text for key, value in settings for text in (f"--{key.replace('_', '-')}", _said(value))]
    return [sys.executable, "-m", "benchmarks.backend", "--port", "0", "--with-parent", *options]


def _said(value: object) -> str:
    return "none" if value is None else str(value).lower()


@contextmanager
def started(service: Service) -> Iterator[str]:
    """The URL of one that runs for as long as the context lasts. Raises NotStarted.

    It does not see a Ctrl-C at the terminal: whoever started it asks it first what it counted.
    """
    process = subprocess.Popen(command(service), stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise NotStarted(process.wait())
        yield msgspec.json.decode(line, type=Listening).urls[0]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
