"""Runs what a page of the documentation says to type, and holds what comes against what the page shows.

Blocks are ```console; lines that begin with `$ ` are typed (those that end in `\\` or open a here-document go on), the
others are what is then seen. Run ids, times and dates may be others; in what is typed later the real ids are used.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from click.testing import CliRunner

from pipeline.cli import main

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_RUN = re.compile(r"run_[0-9a-f]{32}")
_LOOSE = [
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"), "DATE"),
    (re.compile(r"\b\d+\.\d{3} s\b"), "AT"),
    (re.compile(r"\b\d+(\.\d)? s\b"), "TIME"),
    (re.compile(r"\bis (pending|running)$"), "is STATE"),  # a moment later
    (re.compile(r"http://127\.0\.0\.1:\d+"), "URL"),
]
_BIN = Path(sys.executable).parent
_WITHIN_S = 15.0


def steps(page: str) -> Iterator[tuple[str, list[str]]]:
    """What is typed, and what is seen."""
    for block in _BLOCK.findall(page):
        lines = iter(block.splitlines())
        typed: list[str] = []
        seen: list[str] = []
        for line in lines:
            if line.startswith("$ "):
                if typed:
                    yield "\n".join(typed), seen
                typed, seen = [line[2:]], []
                end = re.search(r"<<'(\w+)'", line)
                while typed[-1].endswith("\\") or (end and typed[-1] != end[1]):
                    typed.append(next(lines))
            else:
                seen.append(line)
        yield "\n".join(typed), seen


class Shell:
    """A folder in which commands are run. A command that ends in ` &` must be a daemon; `kill -9 %1` ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEADGATE")}
        self._environment = kept | {
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "COLUMNS": "120",
            "HEADGATE__SERVER__PORT": "0",
            "HEADGATE__SERVER__SHARDS": "1",
            "HEADGATE__ADMIN__PORT": "0",
        }
        self._ids: dict[str, str] = {}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)

    def type(self, command: str, seen: list[str]) -> None:
        for written, real in self._ids.items():
            command = command.replace(written, real)
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._environment[name] = value
        elif command.endswith(" &"):
            self._serve(command.removesuffix(" &"), seen)
        elif command == "kill -9 %1":
            self._end(signal.SIGKILL)
        else:
            self._compare(command, seen)

    def _compare(self, command: str, seen: list[str]) -> None:
        """What a run has come to takes a moment."""
        until = time.monotonic() + _WITHIN_S
        while True:
            lines = self._said(command).splitlines()
            if self._same(seen, lines):
                return
            if " status " not in command or time.monotonic() > until:
                break
            time.sleep(0.1)
        raise AssertionError(f"$ {command}\n--- the page\n" + "\n".join(seen) + "\n--- really\n" + "\n".join(lines))

    def _said(self, command: str) -> str:
        """`headgate` itself is called in this process, which takes a tenth of the time."""
        if command.startswith("headgate ") and not re.search(r"[;|&>]", command):
            with contextlib.chdir(self._folder):
                return CliRunner(env=self._environment).invoke(main, shlex.split(command)[1:]).output
        bash = ["bash", "-c", command]
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(
            bash, cwd=self._folder, env=self._environment, **piped, text=True, timeout=40, check=False
        ).stdout

    def _same(self, seen: list[str], real: list[str]) -> bool:
        """Lines of steps that run at the same time come in any order."""
        for written, found in zip(_RUN.findall("\n".join(seen)), _RUN.findall("\n".join(real)), strict=False):
            self._ids.setdefault(written, found)
        return sorted(map(self._loose, seen)) == sorted(map(self._loose, real))

    def _loose(self, line: str) -> str:
        for written, found in self._ids.items():
            line = line.replace(written, found)
        for pattern, instead in _LOOSE:
            line = pattern.sub(instead, line)
        return " ".join(line.split())

    def _serve(self, command: str, seen: list[str]) -> None:
        self._starts += 1
        log = self._folder / f"serve-{self._starts}.log"
        with log.open("w") as opened:
            self._daemon = subprocess.Popen(
                command.split(),
                cwd=self._folder,
                env=self._environment,
                executable=str(_BIN / "headgate"),
                stdout=opened,
                stderr=opened,
            )
        until = time.monotonic() + _WITHIN_S
        while not any(line.startswith("Headgate ") for line in log.read_text().splitlines()):
            assert self._daemon.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        (said,) = [line for line in log.read_text().splitlines() if line.startswith("Headgate ")]
        assert [self._loose(said)] == [self._loose(line) for line in seen]

    def _end(self, number: signal.Signals) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(20)
            self._daemon = None
