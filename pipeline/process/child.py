"""What every child process of the supervisor does first and last."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec
import uvloop

from config.errors import ConfigError
from config.load import decode
from config.schema import Config
from pipeline.observe.logs import Logs
from pipeline.process.link import ChildLink, Failed, Ready, Refused

_PR_SET_PDEATHSIG = 1  # prctl(2)


class Inheritance(msgspec.Struct, frozen=True):
    """What a child is born with: who it is, and the file descriptors it got. It comes as its one argument, in JSON.

    `config` holds the configuration, so that all processes run the same one whatever becomes of the file that it was
    read from. `lock` is held open and not used: the data folder is taken until all have ended. `listener` and `shard`
    are -1 for the knowledge process.
    """

    name: str
    shard: int
    supervisor: int
    link: int
    memory: int
    config: int
    lock: int
    listener: int


class Child:
    """This process, for its main function. `stopping` is set when it is to end in good order, `orphaned` when, besides,
    there is no supervisor any more and it must be quick."""

    def __init__(self, inheritance: Inheritance, config: Config, logs: Logs, link: ChildLink) -> None:
        self.inheritance = inheritance
        self.config = config
        self.logs = logs
        self.stopping = asyncio.Event()
        self.orphaned = asyncio.Event()
        self.is_ready = False
        self._link = link

    def ready(self) -> None:
        """Tells the supervisor that this process does its work."""
        self.is_ready = True
        self._link.send(Ready())

    def listen(self) -> None:
        """From now on `stopping` and `orphaned` tell what the supervisor wants."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        self._link.on_orphaned(self._orphan)

    def _orphan(self) -> None:
        self.orphaned.set()
        self.stopping.set()


def run(main: Callable[[Child], Awaitable[None]]) -> NoReturn:
    """The life of a child process: `main` returns when it has stopped in good order.

    What `main` raises before it is ready is reported to the supervisor as the reason why nothing starts.
    """
    inheritance = msgspec.json.decode(sys.argv[1], type=Inheritance)
    _die_with(inheritance.supervisor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the supervisor, which tells us
    link = ChildLink(inheritance.link)
    config = decode(_read(inheritance.config))
    logs = Logs(config.logging, inheritance.name)
    child = Child(inheritance, config, logs, link)
    status = 1
    try:
        uvloop.run(_run(child, main))
        status = 0
    except ConfigError as error:
        logs.log.error("configuration_refused", problems=[f"{p.path}: {p.found}" for p in error.problems])  # noqa: TRY400 - the problems say it
        link.send(Refused(list(error.problems)))
    except Exception as error:  # whatever it was, the log and the supervisor get to know
        logs.log.exception("process_failed")
        if not child.is_ready:
            link.send(Failed(f"{type(error).__name__}: {error}"))
    finally:
        logs.close()
    sys.exit(status)


async def _run(child: Child, main: Callable[[Child], Awaitable[None]]) -> None:
    child.listen()
    await main(child)


def _die_with(supervisor: int) -> None:
    """Asks the kernel for SIGTERM when the supervisor's main thread, which starts all children, ends. The link tells
    the same; this also reaches a process that is not listening yet."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it ended before we asked
        sys.exit(1)


def _read(descriptor: int) -> bytes:
    """All of a file that other processes read too, and so without moving its position."""
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return data
