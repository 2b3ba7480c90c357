"""A gateway's packages, exactly as its requirements file says: in an environment of their own in `.venv-peers` of the
working directory."""

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.gateway import CannotPrepare
from benchmarks.peers.interrupt import Tick
from benchmarks.peers.process import Server

FOLDER = Path(".venv-peers").absolute()
_LIMIT = 600.0  # seconds for one step
_STAMP = ".installed"


class Environment:
    """Of the package `name`, from `NAME.in` (the version) and `NAME.txt` (all packages) in `requirements`."""

    def __init__(self, name: str, *, folder: Path = FOLDER, requirements: Path = Path(__file__).parent) -> None:
        self._requirements = requirements / f"{name}.txt"
        self._versions = requirements / f"{name}.in"
        self._name = name
        self._folder = folder / name

    @property
    def version(self) -> str:
        """The one that is pinned."""
        found = re.search(rf"^{re.escape(self._name)}(?:\[.*\])?==(\S+)", self._versions.read_text(), re.MULTILINE)
        if found is None:
            raise LookupError(f"{self._versions} pins no {self._name}")
        return found[1]

    @property
    def programs(self) -> Path:
        return self._folder / "bin"

    def prepare(self, tick: Tick) -> None:
        """Installs, unless what the requirements file says is there. Raises CannotPrepare, Interrupted."""
        stamp = self._folder / _STAMP
        wanted = self._wanted()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        uv = _uv()
        python = str(self.programs / "python")
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._step([sys.executable, "-m", "venv", "--without-pip", "--clear", str(self._folder)], tick)
        install = [uv, "pip", "install", "--python", python, "--require-hashes", "--compile-bytecode"]
        self._step([*install, "-r", str(self._requirements)], tick)
        stamp.write_text(wanted)

    def _wanted(self) -> str:
        """What the stamp says: another requirements file or another Python needs another environment."""
        content = hashlib.sha256(self._requirements.read_bytes()).hexdigest()
        return f"{content} {sys.version_info.major}.{sys.version_info.minor} {sys.executable}\n"

    def _step(self, arguments: Sequence[str], tick: Tick) -> None:
        log = self._folder.parent / f"{self._name}.log"
        try:
            server = Server(arguments, os.environ, log)
        except OSError as error:
            raise CannotPrepare(f"{arguments[0]}: {error}") from error
        try:
            deadline = time.monotonic() + _LIMIT
            while server.status is None and time.monotonic() < deadline:
                tick()
        finally:
            server.stop()
        if server.status != 0:
            raise CannotPrepare(f"{self._name} could not be installed: {server.last_lines(4)}")


def _uv() -> str:
    """The project's own, else one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise CannotPrepare("it needs uv, which `make test` sets up")
    return found


class Installed:
    """A gateway that comes as a package: what all of them share."""

    def __init__(self, name: str, package: str | None = None) -> None:
        self.name = name
        self._environment = Environment(package or name)

    @property
    def version(self) -> str:
        return self._environment.version

    def prepare(self, tick: Tick) -> None:
        self._environment.prepare(tick)
