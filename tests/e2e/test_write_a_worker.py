"""docs/how-to/write-a-worker.md, followed word by word: files are written, commands run, outputs compared."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "write-a-worker.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`([\w/.-]+\.(?:py|toml))`")
_STAYS = ("headgate serve", "python shouting_server.py")  # which the page says to keep open


class Block(NamedTuple):
    language: str  # empty: what the command before it prints
    text: str
    file: str  # that the text before it names last


def blocks() -> list[Block]:
    page = PAGE.read_text()
    found: list[Block] = []
    file = ""
    for match in _BLOCK.finditer(page):
        before = page[: match.start()]
        file = _FILE.findall(before)[-1] if _FILE.findall(before) else ""
        found.append(Block(match[1], match[2], file))
    return found


class Reader:
    """Who follows the page, in a folder of their own. Ports are free ones, one shard is enough, and what pip installs
    goes to a folder of the test's."""

    def __init__(self, folder: Path, port: int) -> None:
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

    def write(self, file: str, text: str) -> None:
        """`pipeline.toml` is added to, as the page says."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as opened:
            opened.write(self._there(text) + "\n")

    def run(self, command: str) -> str:
        """What it prints; of one that stays, its first line."""
        if command in _STAYS:
            return self._stay(command)
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self._out.read_text()}"
        return done.stdout

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


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader = Reader(tmp_path, port)
    yield reader
    reader.close()


@pytest.mark.slow
def test_the_page_works_as_it_stands(reader):
    began = time.monotonic()
    printed: str | None = None
    compared = 0
    for block in blocks():
        match block.language:
            case "python" | "toml":
                reader.write(block.file, block.text)
            case "sh":
                for command in block.text.splitlines():
                    printed = reader.run(command)
            case "":
                assert printed is not None
                assert reader.same(printed, block.text), (printed, block.text)
                compared += 1
            case language:
                raise AssertionError(f"what is done with a block of {language}?")
    assert compared == 5
    assert time.monotonic() - began < 600, "ten minutes were promised"


def test_the_page_names_the_files_that_it_shows():
    shown = [block.file for block in blocks() if block.language in ("python", "toml")]
    assert shown == [
        "shouting.py",
        "pipeline.toml",
        "shouting_server.py",
        "pipeline.toml",
        "package/pyproject.toml",
        "package/headgate_whisper/__init__.py",
        "pipeline.toml",
    ]


def test_every_package_and_link_of_the_page_is_there():
    page = PAGE.read_text()
    for address in re.findall(r"\]\(((?!https?:)[^)#]+)", page):
        assert (PAGE.parent / address).exists(), address
    for module in ("workers/base.py", "workers/errors.py", "workers/canonical.py", "workers/worker.proto"):
        assert (ROOT / module).exists()
