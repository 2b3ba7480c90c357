"""The configuration in force, as children read it when they are born, and how the counters were laid out so far."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from config.load import encode
from config.schema import Config
from pipeline.observe.layout import Counted


class Handout(msgspec.Struct, frozen=True):
    """`config` as `config.load.encode` makes it; `layout` is the history that a `MetricsLayout` is made from."""

    config: bytes
    layout: list[Counted]


class HandoutFile:
    """For the supervisor. Who inherits `descriptor` while it is being renewed gets the old handout whole, or the new
    one; `edition` is its number."""

    def __init__(self) -> None:
        self.descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.edition = -1

    def renew(self, config: Config, layout: Sequence[Counted]) -> None:
        """From now on children are born with this. `config` names no files but holds what they say. Raises OSError."""
        data = msgspec.msgpack.encode(Handout(encode(config), list(layout)))
        descriptor = os.memfd_create("headgate-config", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.dup2(descriptor, self.descriptor, inheritable=False)
        finally:
            os.close(descriptor)
        self.edition += 1

    def close(self) -> None:
        os.close(self.descriptor)


@contextmanager
def handout(config: Config, layout: Sequence[Counted]) -> Iterator[HandoutFile]:
    file = HandoutFile()
    try:
        file.renew(config, layout)
        yield file
    finally:
        file.close()


def read(descriptor: int) -> Handout:
    """For a child: all of a file that others read too, and so without moving its position. Closes it."""
    size = os.fstat(descriptor).st_size
    data = bytearray()
    while len(data) < size:
        data += os.pread(descriptor, size - len(data), len(data))
    os.close(descriptor)
    return msgspec.msgpack.decode(data, type=Handout)
