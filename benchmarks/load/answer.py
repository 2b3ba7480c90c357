"""What one attempt brought."""

from enum import StrEnum

import msgspec


class End(StrEnum):
    """How an attempt ended, as its client saw it."""

    WHOLE = "whole"  # a complete answer of status 200 that the dialect allows
    REFUSED = "refused"  # a complete answer of another status
    ERROR_EVENT = "error_event"  # status 200, then an error in the stream
    BROKEN = "broken"  # the connection or the stream ended before the answer did
    NONSENSE = "nonsense"  # not HTTP, or a body that is not what was asked for
    UNREACHABLE = "unreachable"  # no connection: nothing was sent
    TIMED_OUT = "timed_out"  # the client's patience ended first; it closed the connection
    LEFT = "left"  # the client went away, as its scenario says
    STOPPED = "stopped"  # the run was stopped


class Answer(msgspec.Struct, kw_only=True):
    """Times are seconds of the running loop's clock, 0.0 where it did not come to that.

    sent        when the request's bytes were handed to the connection
    head        when the status line and headers were there
    first       when the first token was there (unstreamed: the whole body)
    ended       when the answer was whole, or the attempt given up
    tokens      content deltas received (unstreamed: what `usage.completion_tokens` says, else 1)
    gaps        seconds between tokens; those that came together share the gap before them: (seconds, how many)
    stage, reason   what `X-Headgate-Shed-Stage` and `-Reason` say, empty without them
    shard       what `X-Headgate-Shard` says, empty without it
    code        the error's `code`, else its `type`, at most 60 characters
    detail      what went wrong, for people, at most 200 characters
    retry_after seconds: `retry-after-ms`, else `Retry-After`; None without one that can be read
    should_retry `x-should-retry`, None without it
    resent      times the request was sent again because a kept connection turned out to be closed
    connection_error    whether the official clients would take it for an error of the connection: it failed before they
                had what they read at once, which is the head of a streamed answer, and all of another
    """

    end: End = End.STOPPED
    status: int = 0
    sent: float = 0.0
    head: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    gaps: list[tuple[float, int]] = []
    stage: str = ""
    reason: str = ""
    shard: str = ""
    code: str = ""
    detail: str = ""
    retry_after: float | None = None
    should_retry: bool | None = None
    resent: int = 0
    connection_error: bool = False
