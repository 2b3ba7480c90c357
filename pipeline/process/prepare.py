"""What the supervisor needs from the machine before it starts anything: its data folder, for itself, and its port."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.schema import ServerSection
from pipeline.process.errors import StartError

SOCKET_NAME = "supervisor.sock"
_LOCK_NAME = "headgate.lock"
_WAIT_FOR_ORPHANS = 5.0


@contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Makes the data folder and holds its lock, whose descriptor it gives: children inherit it, so that the folder is
    in use until the last of them has ended. Raises StartError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"Cannot write to the data folder {folder}: {os.strerror(error.errno or 0)}. "
            "Make it writable, or choose another with server.data_dir."
        ) from error
    try:
        _lock(descriptor, folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    """Waits for the children of a supervisor that was killed, but for no living one."""
    until = time.monotonic() + _WAIT_FOR_ORPHANS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode().strip()
            if _alive(owner) or time.monotonic() > until:
                raise StartError(
                    f"Another Headgate (pid {owner or 'unknown'}) is using the data folder {folder}. "
                    "Stop it, or choose another folder with server.data_dir."
                ) from None
            time.sleep(0.05)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


def listening(server: ServerSection) -> socket.socket:
    """The socket that all shards accept from. Raises StartError."""
    where = f"{server.host}:{server.port}"
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartError(
            f"Cannot listen on {where}: there is no host {server.host!r} here. Correct server.host."
        ) from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] is not socket.AF_INET)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(server.backlog)  # now, not in a shard: only a listening socket keeps others off the port
    except OSError as error:
        sock.close()
        raise StartError(f"Cannot listen on {where}: {_why(error, server)}") from error
    sock.setblocking(False)
    return sock


def _why(error: OSError, server: ServerSection) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {server.port} is in use by another program (`ss -ltnp 'sport = :{server.port}'` names it). "
                "Stop that, or choose another port with server.port."
            )
        case errno.EACCES | errno.EPERM:
            return (
                f"this user may not open port {server.port}. Ports below 1024 need CAP_NET_BIND_SERVICE, which the "
                "machine's administrator grants; or choose another with server.port."
            )
        case errno.EADDRNOTAVAIL:
            return f"{server.host} is not an address of this machine. Correct server.host."
        case _:
            return f"{error.strerror}. Correct server.host or server.port."


def address_of(sock: socket.socket, *, secure: bool = False) -> str:
    """As a URL; with the port that the system chose where 0 was asked for."""
    host, port = sock.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if sock.family is socket.AF_INET6 else f"{scheme}://{host}:{port}"
