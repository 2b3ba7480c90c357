"""Reports as JSON files."""

import math
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report.errors import CannotRead, CannotWrite, NotFinite
from benchmarks.report.model import FORMAT, Report

__all__ = ["CannotRead", "CannotWrite", "NotFinite", "check_writable", "read", "write", "write_bytes", "write_text"]


MOST_BYTES = 64 << 20  # of a report; one of a thousand phases has 10 MB


class _Head(msgspec.Struct):
    """What is looked at first, so that a report of another format is told from a file that is no report."""

    format: int


def write(report: Report, path: Path) -> None:
    """Raises CannotWrite, and NotFinite for a report that JSON cannot hold."""
    _finite(msgspec.to_builtins(report), "")
    write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n", path)


def read(path: Path) -> Report:
    """Raises CannotRead, which names the file and the field."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CannotRead(path, _why(error)) from error
    if len(content) > MOST_BYTES:
        raise CannotRead(path, f"it has more than {MOST_BYTES} bytes")
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format != FORMAT:
            raise CannotRead(path, f"it is a report of format {head.format}; this version reads format {FORMAT}")
        return msgspec.json.decode(content, type=Report)
    except msgspec.ValidationError as error:
        raise CannotRead(path, f"it is not a report: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotRead(path, f"it is not JSON: {error}") from error


def check_writable(path: Path) -> None:
    """Whether `write` would find its place: better known before a run of ten minutes than after it.

    Raises CannotWrite. A disk that fills up meanwhile is not foreseen.
    """
    try:
        if _straight(path):
            if not os.access(path, os.W_OK):
                raise CannotWrite(path, "permission denied")
            return
        beside = _beside(_target(path))
        os.close(_create(beside))
        beside.unlink()
    except OSError as error:
        raise CannotWrite(path, _why(error)) from error


def write_text(text: str, path: Path) -> None:
    write_bytes(text.encode(errors="replace"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """All of it or nothing: a temporary file beside `path`, then a rename. Devices and pipes are written straight."""
    try:
        if _straight(path):
            with path.open("wb", buffering=0) as file:
                _write_all(file.fileno(), content)
        else:
            _replace(_target(path), content)
    except OSError as error:
        raise CannotWrite(path, _why(error)) from error


def _replace(target: Path, content: bytes) -> None:
    beside = _beside(target)
    descriptor = _create(beside)
    try:
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)  # a full disk may show only here
        finally:
            os.close(descriptor)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.{os.getpid()}.tmp")


def _target(path: Path) -> Path:
    """Where the file really lies, so that a rename does not put a file in the place of a link.

    Raises IsADirectoryError: a rename onto a folder would say so only after the run.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(21, "it is a folder")
    return target


def _straight(path: Path) -> bool:
    """Devices and pipes, and what /dev and /proc lead to (`/dev/stdout`): renaming there would miss who reads."""
    if path.is_absolute() and path.parts[1:2] in {("dev",), ("proc",)} and path.exists():
        return not path.is_dir()
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise NotFinite(where, value)
    if isinstance(value, dict):
        for key, inner in value.items():
            _finite(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _finite(inner, f"{where}[{index}]")
