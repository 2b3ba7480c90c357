"""Whether a redaction pattern can be used: it must compile, find text, and find it within bounds."""

import re
from typing import NamedTuple

import regex

_MAX_REPEAT = 65_536  # the largest max_match_chars; compiling a far larger count takes all memory
_COUNT = re.compile(r"\{(\d*),?(\d*)\}")
_RECURSION = re.compile(r"\(\?(?:R|[+-]?\d|&|P>)")  # without a bound on its depth, a search takes all memory
_FUZZY = re.compile(r"(?<!\\[pPNx])\{[^{}]*[eisd][^{}]*\}")  # (…){e<=1}: which text it takes depends on what follows
_PROBES = ("", "a", "0", " ", "a b.")


class PatternFault(NamedTuple):
    found: str
    expected: str


def pattern_fault(pattern: str) -> PatternFault | None:
    """What is wrong with a pattern, or None. Compiled by `regex`, which is what runs it on answers."""
    fault = _written(pattern)
    if fault is not None:
        return fault
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        return PatternFault(f"a pattern that does not compile: {error}", "a regular expression of the regex package")
    if compiled.flags & regex.REVERSE:
        return PatternFault("a pattern that searches backwards, (?r)", "one that searches forwards, as answers come")
    if any(not match.group() for probe in _PROBES for match in compiled.finditer(probe)):
        return PatternFault("a pattern that matches where there is nothing", "one that matches at least one character")
    return None


def _written(pattern: str) -> PatternFault | None:
    """What is wrong with it before it is compiled."""
    counts = [int(count) for match in _COUNT.finditer(pattern) for count in match.groups() if count]
    if max(counts, default=0) > _MAX_REPEAT:
        return PatternFault("a repetition without a sensible limit", f"repetitions of at most {_MAX_REPEAT:,}")
    if _RECURSION.search(pattern):
        return PatternFault("a pattern that calls itself", "a regular expression without recursion")
    if _FUZZY.search(pattern) or r"\G" in pattern:
        what = r"an approximate match or \G, which depend on how an answer is cut into deltas"
        return PatternFault(what, "a pattern that matches the same text wherever it is cut")
    return None
