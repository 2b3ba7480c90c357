"""What clients may have seen, given what was done to the daemon meanwhile; and what its log may say. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.load.answer import End
from benchmarks.soak.settings import SOMETIMES

LOST = "a shard was killed"
BACKEND = "the backend was gone"
KNOWLEDGE = "the knowledge process was killed"

_LATER = 2.0  # seconds after something was mended that clients may still see of it; the generator is busy, too

_ALWAYS = frozenset(
    {
        (503, "overloaded"),
        (504, "deadline_exceeded"),
        (200, "deadline_exceeded"),  # in the stream
    }
)
# How an attempt may have ended because something was done, and to whom.
_EXCUSED: Mapping[str, frozenset[str]] = {
    LOST: frozenset({"shard_lost", "broken"}),
    BACKEND: frozenset({"backend_error"}),
    KNOWLEDGE: frozenset({"retrieval_error"}),
}
_OF_STREAM: Mapping[str, frozenset[tuple[int, str]]] = {
    "limited": frozenset({(429, "rate_limit_exceeded")}),
    SOMETIMES: frozenset({(404, "model_not_found")}),
}
# How often the log may tell of errors: as often as one of these was done. Any other is one of Headgate's own.
_CAUSED = {"error process_died": ("kill", "knowledge"), "error reload_refused": ("broken",)}


class Seen(NamedTuple):
    """An attempt that was not served. `code` is the error's, else how it ended."""

    at: float
    stream: str
    end: End
    status: int
    code: str
    detail: str


class Trouble(NamedTuple):
    """Something was done, from when until when it was mended (None: not yet); seconds of the monotonic clock."""

    what: str
    begun: float
    mended: float | None

    def covers(self, moment: float) -> bool:
        return self.begun <= moment and (self.mended is None or moment <= self.mended + _LATER)


def unexpected(seen: Iterable[Seen], troubles: Iterable[Trouble]) -> Iterator[Seen]:
    """Those that nothing excuses."""
    done = list(troubles)
    for each in seen:
        if each.end is End.TIMED_OUT or _excused(each, done):  # a hang is told by the counts
            continue
        yield each


def _excused(seen: Seen, troubles: list[Trouble]) -> bool:
    answered = (seen.status, seen.code)
    if answered in _ALWAYS or answered in _OF_STREAM.get(seen.stream, ()):
        return True
    return any(seen.code in _EXCUSED.get(trouble.what, ()) and trouble.covers(seen.at) for trouble in troubles)


def told(seen: Iterable[Seen]) -> list[str]:
    """The same as sentences, one for each kind."""
    kinds: Counter[tuple[str, int, str]] = Counter()
    details: dict[tuple[str, int, str], str] = {}
    for each in seen:
        kind = each.stream, each.status, each.code
        kinds[kind] += 1
        details.setdefault(kind, each.detail)
    return [
        f"{count} answers {status or ''} {code} to clients of {stream!r} that nothing explains ({details[kind]})"
        for kind, count in kinds.most_common()
        for stream, status, code in (kind,)
    ]


def log_problems(events: Mapping[str, int], examples: Iterable[str], done: Mapping[str, int]) -> Iterator[str]:
    """Lines that a log must not hold. `events` counts by level and name, `done` says how often what was done."""
    shown = list(examples)
    for name, count in events.items():
        if name != "(no JSON)" and name.partition(" ")[0] not in ("error", "critical"):
            continue
        caused = sum(done.get(what, 0) for what in _CAUSED.get(name, ()))
        if count > caused:
            event = name.rpartition(" ")[2]
            example = next((line for line in reversed(shown) if event.strip("()") in line), "")
            explained = f", {caused} of them ours" if caused else ""
            yield f"the log has {count} lines of {name!r}{explained}" + (f", as {example[:600]}" if example else "")
