"""One answer while it comes in. No I/O: what was read, and when, is passed in."""

import math
import time
from email.utils import mktime_tz, parsedate_tz

from benchmarks.load.answer import Answer, End
from benchmarks.load.scenario import Leave
from benchmarks.load.wire_events import Events, Nonsense, Problem, completion_tokens, problem

_REFUSAL_KEPT = 1 << 16  # bytes of a refusal's body that are looked at
_REFUSAL_MOST = 4 << 20  # bytes of it that are read
NEVER = 1e9  # seconds: what a `Retry-After` beyond that counts as

_STAGE, _REASON, _SHARD = b"x-headgate-shed-stage", b"x-headgate-shed-reason", b"x-headgate-shard"
_LENGTH, _ENCODING, _TYPE = b"content-length", b"transfer-encoding", b"content-type"
_AFTER, _AFTER_MS, _SHOULD = b"retry-after", b"retry-after-ms", b"x-should-retry"
_WANTED = frozenset({_STAGE, _REASON, _SHARD, _LENGTH, _ENCODING, _TYPE, _AFTER, _AFTER_MS, _SHOULD, b"server"})


class Incoming:
    """Makes one Answer. `over`: it is decided, and nothing that comes later changes it.

    `awaits_end`: all that counts is there, only the end of the body is missing. `limit`: bytes of an unstreamed body,
    or of an event. The tokens of one read are stamped together, by `settle`.
    """

    __slots__ = (
        *("_events", "_fresh", "_headers", "_last", "_leave_at_head", "_leave_at_token", "_limit"),
        *("_parts", "_size", "_stream", "answer", "now", "over"),
    )

    def __init__(self, *, stream: bool, leave: Leave | None, limit: int) -> None:
        self.answer = Answer(gaps=[])
        self.over = False
        self.now = 0.0
        self._stream = stream
        self._limit = limit
        self._leave_at_head = False
        self._leave_at_token = 0
        if leave is not None:
            self._leave_at_head = leave.after == "head"
            self._leave_at_token = {"first_token": 1, "tokens": leave.tokens}.get(leave.after, 0)
        self._headers: dict[bytes, str] = {}
        self._events: Events | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._fresh = 0  # tokens since the last `settle`
        self._last = 0.0  # when the last token came

    @property
    def awaits_end(self) -> bool:
        events = self._events
        return not self.over and events is not None and events.done

    @property
    def server(self) -> str:
        return self._headers.get(b"server", "")

    def header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _WANTED:
            self._headers[name] = value.decode("latin-1")

    def head(self, status: int) -> None:
        """The status line and headers are there."""
        answer, headers = self.answer, self._headers
        if status < 100:
            self.nonsense(f"malformed HTTP: status {status}")
            return
        if status < 200:  # an interim answer; the real one is to come
            headers.clear()
            return
        answer.head, answer.status = self.now, status
        answer.shard = headers.get(_SHARD, "")
        if status != 200:
            answer.stage, answer.reason = headers.get(_STAGE, ""), headers.get(_REASON, "")
            answer.retry_after = retry_after(headers.get(_AFTER_MS), headers.get(_AFTER))
            answer.should_retry = {"true": True, "false": False}.get(headers.get(_SHOULD, ""))
        elif self._leave_at_head:
            self.gone(End.LEFT)
        elif self._stream and self._content_type() == "text/event-stream":
            self._events = Events(self._limit)

    def body(self, data: bytes) -> None:
        if self.over:
            return
        if self._events is not None:
            try:
                self._fresh += self._events.feed(data)
            except Nonsense as error:
                self.nonsense(str(error))
            return
        if self.answer.status == 200 or self._size < _REFUSAL_KEPT:
            self._parts.append(data)
        self._size += len(data)
        limit = self._limit if self.answer.status == 200 else min(self._limit, _REFUSAL_MOST)
        if self._size > limit:
            self.nonsense(f"a body of more than {limit} bytes")

    def settle(self, *, complete: bool) -> None:
        """A read has been taken in. `complete`: the body has ended as HTTP wants it."""
        if self._fresh:
            self._stamp()
        if self.over:
            return
        if self._events is not None and self._events.error is not None:
            self._failed(self._events.error)  # as the official clients do: what comes after it is not awaited
        elif complete:
            self._conclude()

    def lost(self, why: str) -> None:
        """The connection ended. That ends a body which names no length of its own, and breaks any other."""
        if self.over:
            return
        if self.answer.head and not self._names_its_end() and why == "":
            self._conclude()
            return
        where = "in the body" if self.answer.head else "before the head was there"
        self.broken(f"connection lost {where}: {why or 'closed by the target'}")
        self._unread()

    def malformed(self, why: str) -> None:
        """What came is not HTTP."""
        if not self.over:
            self.nonsense(f"malformed HTTP: {why}")
            self._unread()

    def nonsense(self, detail: str) -> None:
        self._end(End.NONSENSE, detail)

    def broken(self, detail: str) -> None:
        self._end(End.BROKEN, detail)

    def unreachable(self, detail: str) -> None:
        self._end(End.UNREACHABLE, detail)
        self.answer.connection_error = True

    def short(self, detail: str) -> None:
        """The client has no descriptor or port left for a connection: nothing is the target's fault."""
        self._end(End.STOPPED, detail)

    def gone(self, end: End) -> None:
        """The client left (LEFT) or has no patience any more (TIMED_OUT)."""
        self._end(end, "")

    def again(self) -> None:
        """Nothing came, and it is to be sent once more."""
        self.answer = Answer(gaps=self.answer.gaps, resent=self.answer.resent + 1)
        self.over = False

    def no_end(self, seconds: float) -> None:
        """All that counts was there, but the body did not end within `seconds` after that."""
        self.broken(f"the body did not end within {seconds:g} s of [DONE]")

    def _stamp(self) -> None:
        fresh, self._fresh = self._fresh, 0
        answer, now = self.answer, self.now
        leave_at = self._leave_at_token
        if leave_at and answer.tokens + fresh >= leave_at:
            fresh = leave_at - answer.tokens
            self.gone(End.LEFT)
        if not answer.tokens:
            answer.first = now
            if fresh > 1:
                answer.gaps.append((0.0, fresh - 1))
        else:
            answer.gaps.append(((now - self._last) / fresh, fresh))
        answer.tokens += fresh
        self._last = now

    def _conclude(self) -> None:
        """The body is there in full."""
        if self.answer.status != 200:
            found = problem(b"".join(self._parts))
            self.answer.code = found.code
            self._end(End.REFUSED, found.text)
        elif not self._stream:
            self._completion()
        elif self._events is None:
            found = problem(b"".join(self._parts))
            self.nonsense(f"{self._content_type() or 'no content type'} instead of text/event-stream: {found.text}")
        elif not self._events.begun and self._events.done:
            self.nonsense("a stream of nothing but [DONE]")
        elif self._events.done or self._events.finished:
            self._end(End.WHOLE, "")
        else:
            self.broken("the body ended without [DONE] and without a finish reason")

    def _completion(self) -> None:
        answer = self.answer
        try:
            answer.tokens = completion_tokens(b"".join(self._parts))
        except Nonsense as error:
            self.nonsense(str(error))
            return
        answer.first = self.now
        self._end(End.WHOLE, "")

    def _failed(self, error: Problem) -> None:
        self.answer.code = error.code
        self._end(End.ERROR_EVENT, error.text)

    def _end(self, end: End, detail: str) -> None:
        if not self.over:
            self.over = True
            self.answer.end, self.answer.ended, self.answer.detail = end, self.now, detail[:200]
            self._parts.clear()

    def _unread(self) -> None:
        """The official clients read a stream's head, but all of another answer, before they judge it."""
        self.answer.connection_error = not (self._stream and self.answer.head)

    def _content_type(self) -> str:
        return self._headers.get(_TYPE, "").partition(";")[0].strip().lower()

    def _names_its_end(self) -> bool:
        coding = self._headers.get(_ENCODING)
        if coding is not None:
            return coding.rpartition(",")[2].strip().lower() == "chunked"
        return _LENGTH in self._headers


def retry_after(milliseconds: str | None, seconds: str | None) -> float | None:
    """Seconds until a retry is asked for, read as the official clients do. A date in the past is negative."""
    for text, unit in ((milliseconds, 1000.0), (seconds, 1.0)):
        if text is None:
            continue
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isnan(value) or text.strip().lower().lstrip("+-") in ("inf", "infinity"):
            return None
        return max(min(value / unit, NEVER), -NEVER)
    date = parsedate_tz(seconds) if seconds is not None else None
    if date is None:
        return None
    try:
        return float(mktime_tz(date) - time.time())
    except (ValueError, OverflowError, OSError):
        return None
