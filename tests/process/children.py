"""Children that behave in every way a child can; the name says how. Run by the keeper under test, not imported."""

import asyncio
import faulthandler
import signal
import sys
import time
from pathlib import Path

import msgspec

from config.errors import Problem
from pipeline.process.child import Inheritance
from pipeline.process.counters import SharedMemory
from pipeline.process.link import ChildLink, Failed, Link, Ready, Refused, Retire


def main() -> None:
    given = msgspec.json.decode(sys.argv[1], type=Inheritance)
    if given.name == "polite":
        asyncio.run(polite(given.link))
        return
    link = ChildLink(given.link)
    match given.name:
        case "well":
            link.send(Ready())
            time.sleep(60)
        case "dying":
            sys.exit(3)
        case "failing":
            link.send(Failed("the store is broken"))
            sys.exit(1)
        case "refusing":
            link.send(Refused([Problem("workers[0].api_key", "nothing", "a secret")]))
            sys.exit(1)
        case "silent":
            time.sleep(60)
        case "short-lived":
            link.send(Ready())
            sys.exit(4)
        case "once":  # only the first one gets ready
            if first():
                link.send(Ready())
                time.sleep(60)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            link.send(Ready())
            time.sleep(60)
        case "blocked":  # turns for a while, then no more
            faulthandler.register(signal.SIGUSR1)
            link.send(Ready())
            beat(given, 0.3)
            spin_for_ever()
        case "beating":
            link.send(Ready())
            beat(given, 60)
        case "curious":  # what did it inherit?
            link.send(Failed(",".join(path.name for path in Path("/proc/self/fd").iterdir())))


def first() -> bool:
    """In this working directory."""
    try:
        Path("first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def beat(given: Inheritance, seconds: float) -> None:
    slot = SharedMemory.attach(given.memory).seats[given.seat]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        slot.pulse = time.monotonic()
        time.sleep(0.02)


def spin_for_ever() -> None:
    while True:
        pass


async def polite(descriptor: int) -> None:
    """Ends when it is told that another has taken its place."""
    told = asyncio.Event()
    link = await Link.open(
        ChildLink(descriptor).socket, lambda message: told.set() if isinstance(message, Retire) else None, told.set
    )
    link.send(Ready())
    await told.wait()


main()
