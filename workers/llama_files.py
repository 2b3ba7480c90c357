"""What a `llama-cpp` worker and the process that serves its model share: files of theirs below the data folder.

Their names are made of what such a process is started with: a worker that is configured anew finds its new process, and
calls under way go on with the old one. Who may use a process holds a shared lock on its `uses`; a process that is to
end waits until it can lock that for itself.
"""

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec

from config.schema import LlamaCppWorker

PACKAGE = "xllamacpp"  # llama.cpp and its server
FOLDER = "llama"
_NAME = 16  # characters of a hash


class Files(NamedTuple):
    """`socket` is where the process answers, `note` holds a `Note`, `said` is its standard error."""

    socket: Path
    note: Path
    uses: Path
    said: Path


class Note(msgspec.Struct, frozen=True):
    """How the process is, in the words of the daemon's status, and what the last one died of."""

    state: str
    reason: str = ""


def files(section: LlamaCppWorker, data_dir: Path) -> Files:
    born_with = [section.name, section.gguf, section.slots, section.context_tokens, section.threads, section.gpu_layers]
    name = sha256(msgspec.json.encode(born_with)).hexdigest()[:_NAME]
    folder = data_dir / FOLDER
    return Files(folder / f"{name}.sock", folder / f"{name}.json", folder / f"{name}.uses", folder / f"{name}.log")


def model_name(section: LlamaCppWorker) -> str:
    """What answers call the model: as its file."""
    return Path(section.gguf).stem


def write(path: Path, note: Note) -> None:
    """In one step: who reads it gets this or what was there. Raises OSError."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(note))
    new.replace(path)


def read(path: Path) -> Note | None:
    """None where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def use(uses: Path) -> int | None:
    """A descriptor that keeps the process from ending in good order until it is closed. None while the daemon has not
    made the folder, and in the moment in which the process ends."""
    try:
        return _locked(uses, fcntl.LOCK_SH)
    except OSError:
        return None


def unused(uses: Path) -> bool:
    """Whether nobody uses the process now."""
    try:
        os.close(_locked(uses, fcntl.LOCK_EX))
    except BlockingIOError:
        return False
    except OSError:  # somebody has removed the folder
        return True
    return True


def _locked(path: Path, how: int) -> int:
    """Raises BlockingIOError where others are in the way, and OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
