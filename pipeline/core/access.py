"""Who asks: what the door knows about the caller of a request."""

from typing import Protocol

import msgspec

from pipeline.core.outcomes import Priority


class Quota(Protocol):
    """A caller's limits. Times are seconds on the caller's clock."""

    def admit(self, tokens: int, now: float) -> None:
        """Takes one request and `tokens` estimated tokens, or raises `RateLimited` and takes nothing."""
        ...

    @property
    def leased(self) -> bool:
        """Whether a part of it is with other shards, so that `short` is worth asking."""
        ...

    def short(self, tokens: int, now: float) -> bool:
        """Whether `admit` could refuse a request with so many tokens here that another shard would let in. If so,
        `borrow` first."""
        ...

    async def borrow(self, tokens: int) -> None:
        """Fetches what such a request lacks here, as far as it is to be had; takes a tenth of a second at most. `admit`
        without waiting for anything else, or it is somebody else's. Safe to cancel."""
        ...

    def settle(self, estimated: int, used: int | None, now: float) -> None:
        """The request has ended: its place is free again, and `used` tokens take the place of the estimate.

        None: it never reached a backend, and gets its request and its tokens back.
        """
        ...

    def fields(self, now: float) -> str:
        """Header lines that tell the limits and what is left of them, as OpenAI names them; empty without limits."""
        ...

    @property
    def counts_tokens(self) -> bool:
        """Whether `admit` wants an estimate: it costs time to make."""
        ...


class Caller(msgspec.Struct, frozen=True, eq=False):
    """The holder of a key. `name` is "-" for anonymous callers; `routes` None: all; `weight` is of its share beside
    others of its class."""

    name: str
    priority: Priority = Priority.NORMAL
    routes: frozenset[str] | None = None
    weight: float = 1.0
    quota: Quota | None = None


ANONYMOUS = Caller("-")
