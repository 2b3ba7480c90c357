"""A page of the documentation, followed word by word: files are written, commands run, outputs compared."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`([\w/.-]+\.(?:py|toml|yaml))`")
_STAYS = ("headgate serve", "python shouting_server.py")  # which pages say to keep open
FILES = ("python", "toml", "yaml")


class Block(NamedTuple):
    language: str  # empty: what the command before it prints
    text: str
    file: str  # that the text before it names last


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    for match in _BLOCK.finditer(page):
        named = _FILE.findall(page[: match.start()])
        found.append(Block(match[1], match[2], named[-1] if named else ""))
    return found


class Reader:
    """Who follows a page, in a folder of their own. Ports are free ones, one shard is enough, and what pip installs
    goes to a folder of the test's. `port` is the one that stands for 50051."""

    def __init__(self, folder: Path, port: int = 50051) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        site = folder / "site"
        site.mkdir()
        self._port = port
        self._processes: list[subprocess.Popen[bytes]] = []
        self._out = folder / "out"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADGATE")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{site}:{ROOT}",
            "PIP_TARGET": str(site),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this option the other way round
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "HEADGATE__SERVER__PORT": "0",
            "HEADGATE__SERVER__SHARDS": "1",
            "HEADGATE__ADMIN__PORT": "0",
        }

    def follow(self, page: str) -> int:
        """Does all that it says; returns how many outputs were as it says."""
        printed: str | None = None
        compared = 0
        for block in blocks(page):
            match block.language:
                case "sh":
                    for command in block.text.splitlines():
                        printed = self.run(command)
                case "":
                    assert printed is not None
                    assert self.same(printed, block.text), (printed, block.text)
                    compared += 1
                case language:
                    assert language in FILES, f"what is done with a block of {language}?"
                    self.write(block.file, block.text)
        return compared

    def write(self, file: str, text: str) -> None:
        """One that is there is added to, as pages say."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as opened:
            opened.write(self._there(text) + "\n")

    def run(self, command: str) -> str:
        """What it prints; of one that stays, its first line; of one that fails, as `!` before it says, its errors."""
        if command in _STAYS:
            return self._stay(command)
        fails = command.startswith("! ")
        done = subprocess.run(
            shlex.split(command.removeprefix("! ")),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        out = self._out.read_text() if self._out.exists() else ""
        assert (done.returncode != 0) is fails, f"{command}\n{done.stdout}\n{done.stderr}\n{out}"
        return done.stderr if fails else done.stdout

    def same(self, printed: str, expected: str) -> bool:
        return printed.split() == self._there(expected).split()

    def close(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            assert process.wait(15) == 0, self._out.read_text()
            assert process.stdout is not None
            process.stdout.close()

    def _there(self, text: str) -> str:
        return text.replace("50051", str(self._port))

    def _stay(self, command: str) -> str:
        with self._out.open("ab") as errors:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self._environment | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line, self._out.read_text()
        return line
