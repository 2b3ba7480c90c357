"""Children that behave in every way a child can; the name says how. Run by the keeper under test, not imported."""

import signal
import sys
import time
from pathlib import Path

import msgspec

from config.errors import Problem
from pipeline.process.child import Inheritance
from pipeline.process.link import ChildLink, Failed, Ready, Refused


def main() -> None:
    given = msgspec.json.decode(sys.argv[1], type=Inheritance)
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
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            link.send(Ready())
            time.sleep(60)
        case "curious":  # what did it inherit?
            link.send(Failed(",".join(path.name for path in Path("/proc/self/fd").iterdir())))


main()
