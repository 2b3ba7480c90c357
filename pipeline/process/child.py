"""What every child process of the supervisor does first and last."""

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import msgspec
import uvloop

from config.errors import ConfigError
from config.load import decode
from config.schema import Config, LlamaCppWorker
from pipeline.observe.layout import Counted
from pipeline.observe.logs import Logs
from pipeline.process.counters import SharedMemory, Slot
from pipeline.process.errors import StartError
from pipeline.process.handout import read
from pipeline.process.link import ChildLink, Failed, Link, Message, Ready, Refused, Retire, SetLevel

PULSE = 0.1  # seconds between two beats
_STDERR = 2
_PR_SET_PDEATHSIG = 1  # prctl(2)
_FOR_THE_SUPERVISOR = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)  # which tells us

Handler = Callable[[Any], None]


class Inheritance(msgspec.Struct, frozen=True):
    """What a child is born with: who it is, and the file descriptors it got. It comes as its one argument, in JSON.

    `seat` is its place on the board. `config` holds a `Handout`: the configuration, so that all processes run the same
    one whatever becomes of the file that it was read from, and the `layout`'s history, which is here from when the
    child has read it; `edition` is its number. `lock` is held open and not used: the data folder is taken until all
    have ended. `listener`, `shard` and `seat` are -1 for the knowledge process, and for the one of a `worker`'s model,
    which has a board of its own.
    """

    name: str
    shard: int
    supervisor: int
    link: int
    memory: int
    config: int
    lock: int
    listener: int
    seat: int = -1
    edition: int = 0
    layout: list[Counted] = []
    worker: LlamaCppWorker | None = None


class Child:
    """This process, for its main function. `stopping` is set when it is to end in good order; besides, `retiring` when
    another process has taken its place, and `orphaned` when there is no supervisor any more and it must be quick.
    `memory` is the board and all counters, `slot` this process's place on it."""

    def __init__(self, inheritance: Inheritance, config: Config, logs: Logs, memory: SharedMemory) -> None:
        self.inheritance = inheritance
        self.config = config
        self.logs = logs
        self.memory = memory
        self.slot: Slot = memory.knowledge if inheritance.seat < 0 else memory.seats[inheritance.seat]
        self.stopping = asyncio.Event()
        self.retiring = asyncio.Event()
        self.orphaned = asyncio.Event()
        self.is_ready = False
        self._handlers: dict[type, Handler] = {SetLevel: self._set_level, Retire: self._retire}
        self._link: Link | None = None
        self._beat: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Tells the supervisor that this process does its work."""
        self.is_ready = True
        self.send(Ready())

    def send(self, message: Message) -> None:
        """To the supervisor. Never waits; does nothing when it is gone."""
        if self._link is not None:
            self._link.send(message)

    def on(self, kind: type, handler: Handler) -> None:
        """`handler` gets each message of this kind from the supervisor, at once; one that nobody handles is ignored."""
        self._handlers[kind] = handler

    async def listen(self, link: ChildLink) -> None:
        """From now on the events tell what the supervisor wants, and it sees that the event loop turns."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        self._pulse()
        self._link = await Link.open(link.socket, self._received, self._orphan)

    def hush(self) -> None:
        """The supervisor has heard all from this event loop."""
        if self._beat is not None:
            self._beat.cancel()

    def _received(self, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is not None:
            handler(message)

    def _pulse(self) -> None:
        self.slot.pulse = time.monotonic()
        self._beat = asyncio.get_running_loop().call_later(PULSE, self._pulse)

    def _orphan(self) -> None:
        self.orphaned.set()
        self.stopping.set()

    def _retire(self, _: Retire) -> None:
        self.retiring.set()
        self.stopping.set()

    def _set_level(self, message: SetLevel) -> None:
        self.logs.set_level(message.level)


def run(main: Callable[[Child], Awaitable[None]]) -> NoReturn:
    """The life of a child process: `main` returns when it has stopped in good order.

    What `main` raises before it is ready is reported to the supervisor as the reason why nothing starts.
    """
    inheritance = msgspec.json.decode(sys.argv[1], type=Inheritance)
    _die_with(inheritance.supervisor)
    faulthandler.register(signal.SIGUSR1)  # how the supervisor asks a blocked process what it is doing
    for number in _FOR_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    link = ChildLink(os.dup(inheritance.link))  # the event loop closes its own
    handout = read(inheritance.config)
    config = decode(handout.config)
    if config.server.pin_cores and inheritance.shard >= 0:
        pin(inheritance.shard)
    logs = Logs(config.logging, inheritance.name, os.dup(_STDERR))  # a child may need that for what others write
    memory = SharedMemory.attach(inheritance.memory)
    child = Child(msgspec.structs.replace(inheritance, layout=handout.layout), config, logs, memory)
    status = 1
    try:
        uvloop.run(_run(child, main))
        status = 0
    except ConfigError as error:
        logs.log.error("configuration_refused", problems=[f"{p.path}: {p.found}" for p in error.problems])  # noqa: TRY400 - the problems say it
        link.send(Refused(list(error.problems)))
    except StartError as error:
        logs.log.error("process_failed", because=str(error))  # noqa: TRY400 - the message says it
        link.send(Failed(str(error)))
    except Exception as error:  # whatever it was, the log and the supervisor get to know
        logs.log.exception("process_failed")
        if not child.is_ready:
            link.send(Failed(f"{type(error).__name__}: {error}"))
    finally:
        logs.close()
    sys.exit(status)


async def _run(child: Child, main: Callable[[Child], Awaitable[None]]) -> None:
    await child.listen(ChildLink(child.inheritance.link))
    try:
        await main(child)
    finally:
        child.hush()


def pin(shard: int) -> None:
    """To a core of its own among those that the daemon may run on; with more shards than cores, they share."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[shard % len(cores)]})


def _die_with(supervisor: int) -> None:
    """Asks the kernel for SIGTERM when the supervisor's main thread, which starts all children, ends. The link tells
    the same; this also reaches a process that is not listening yet."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it ended before we asked
        sys.exit(1)
