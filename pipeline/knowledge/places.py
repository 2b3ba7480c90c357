"""Where the knowledge process keeps things under the data folder, and how to reach a socket whose path is long."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

SOCKET = "knowledge.sock"
LOCK = "knowledge.lock"
MODELS = "models"
COLLECTIONS = "collections"

MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 107 on Linux, 103 on macOS


def collection_folder(data_dir: Path, name: str) -> Path:
    """A folder of its own for every name: those may hold slashes."""
    return data_dir / COLLECTIONS / quote(name, safe="")


def private_socket(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A Unix socket bound to `path`, for this user only, in place of what was there; its folder is made where it is
    missing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    before = os.umask(0o177)
    try:
        with socket_address(path) as address:
            sock.bind(address)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """The path as the kernel takes it: one that is too long is named by way of its folder's file descriptor.

    Raises OSError when the folder cannot be opened, or when the path is too long for a system without /proc.
    """
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        yield str(path)
        return
    if sys.platform != "linux":
        raise OSError(f"{path} is too long for a Unix socket: choose a shorter server.data_dir")
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
