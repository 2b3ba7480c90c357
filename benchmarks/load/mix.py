"""What each arrival asks, and how that is said to the target."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from random import Random
from statistics import NormalDist
from typing import NamedTuple

import msgspec

from benchmarks.load.scenario import Kind, Scenario, Sessions, Sizes
from benchmarks.load.trace import Entry
from benchmarks.load.words import text
from benchmarks.service import Service

_STRIDE = 7  # words between the beginnings of two prompts, so that neighbours differ
_IN_STREAMS = frozenset({"first_token", "tokens"})  # points of leaving that an unstreamed answer does not have


class Intent(NamedTuple):
    """One request that is to be sent. `number` is unique in the run; `at` is seconds since the phase began.

    `words` of prompt; `max_tokens` None where the request names none; `leaves`: whether this client goes away at the
    point that its kind says.
    """

    number: int
    at: float
    kind: Kind
    session: str | None
    words: int
    max_tokens: int | None
    leaves: bool


class Mix:
    """Gives a run's requests what they ask, one after the other: the same for the same scenario and seed.

    `next_number` is the number that the next intent will have.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.next_number = 0
        self._scenario = scenario
        self._random = Random(seed).random
        self._gauss = Random(~seed).gauss
        self._kinds = [_Recipe(kind) for kind in scenario.requests]
        self._weights = list(accumulate(kind.weight for kind in scenario.requests))
        self._changed: dict[tuple[int, bool | None, str | None], Kind] = {}
        self._sessions = None if scenario.sessions is None else _Zipf(scenario.sessions)

    def intent(self, at: float, override: Entry | None = None) -> Intent:
        """What arrives `at` seconds after the phase began. What a trace's entry says goes before the mix."""
        random = self._random
        chosen = self._pick(random()) if len(self._kinds) > 1 else 0
        recipe = self._kinds[chosen]
        words = recipe.words.draw(self._gauss)
        max_tokens = None if recipe.max_tokens is None else recipe.max_tokens.draw(self._gauss)
        session = None if self._sessions is None else self._sessions.draw(random)
        leaves = recipe.leaves > 0 and random() < recipe.leaves
        number, self.next_number = self.next_number, self.next_number + 1
        intent = Intent(number, at, recipe.kind, session, words, max_tokens, leaves)
        return intent if override is None else self._overridden(intent, chosen, override)

    def expected(self) -> tuple[float, float]:
        """Mean words of a prompt and mean tokens of an answer, for a backend's capacity. Requests that name no
        `max_tokens` count with the tokens that the scenario's simulated backend gives them."""
        unnamed = (self._scenario.backend or Service()).tokens
        words = sum(one.kind.weight * one.words.mean() for one in self._kinds)
        tokens = sum(one.kind.weight * (one.max_tokens.mean() if one.max_tokens else unnamed) for one in self._kinds)
        return words / self._weights[-1], tokens / self._weights[-1]

    def _pick(self, share: float) -> int:
        return min(bisect_right(self._weights, share * self._weights[-1]), len(self._kinds) - 1)

    def _overridden(self, intent: Intent, chosen: int, entry: Entry) -> Intent:
        kind = self._kind(chosen, entry)
        return intent._replace(
            kind=kind,
            session=entry.session or intent.session,
            words=entry.words or intent.words,
            max_tokens=entry.max_tokens or intent.max_tokens,
            leaves=intent.leaves and kind.leave is not None,
        )

    def _kind(self, chosen: int, entry: Entry) -> Kind:
        """The kind as the entry changes it; made once for each change there is."""
        kind = self._kinds[chosen].kind
        if entry.stream is None and entry.class_ is None:
            return kind
        key = (chosen, entry.stream, entry.class_)
        if key not in self._changed:
            stream = kind.stream if entry.stream is None else entry.stream
            leave = kind.leave if stream or kind.leave is None or kind.leave.after not in _IN_STREAMS else None
            class_ = entry.class_ or kind.class_
            self._changed[key] = msgspec.structs.replace(kind, stream=stream, leave=leave, class_=class_)
        return self._changed[key]


class _Recipe:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.words = _Lognormal(kind.prompt_words)
        self.max_tokens = None if kind.max_tokens is None else _Lognormal(kind.max_tokens)
        self.leaves = kind.leave.share if kind.leave is not None else 0.0


class _Lognormal:
    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._sigma = math.sqrt(math.log1p(sizes.spread**2))
        self._mu = math.log(sizes.mean) - self._sigma**2 / 2
        self._always = max(round(sizes.mean), 1) if sizes.spread == 0 else 0

    def draw(self, gauss: Callable[[float, float], float]) -> int:
        if self._always:
            return self._always
        drawn = math.exp(min(gauss(self._mu, self._sigma), 30.0))
        return min(max(round(drawn), self._sizes.least), self._sizes.most)

    def mean(self) -> float:
        """Of what is drawn, so with the cut: E[X; X < k] = mean · Φ((ln k - mu - sigma²) / sigma)."""
        if self._always:
            return self._always
        least, most = self._sizes.least, self._sizes.most
        below, above = self._share_below(least, 0.0), 1 - self._share_below(most, 0.0)
        between = self._share_below(most, self._sigma) - self._share_below(least, self._sigma)
        return least * below + self._sizes.mean * between + most * above

    def _share_below(self, size: int, shift: float) -> float:
        return NormalDist().cdf((math.log(size) - self._mu) / self._sigma - shift)


class _Zipf:
    """Session k of n is chosen with a weight of 1 / k^skew, the first `heavy` with `times` as much."""

    def __init__(self, sessions: Sessions) -> None:
        self._share = sessions.share
        self._count = sessions.count
        heavy, times = sessions.heavy, sessions.times
        weights = (rank**-sessions.skew * (times if rank <= heavy else 1.0) for rank in range(1, sessions.count + 1))
        self._weights = array("d", accumulate(weights) if sessions.skew or heavy else ())

    def draw(self, random: Callable[[], float]) -> str | None:
        if self._share < 1 and random() >= self._share:
            return None
        if not self._weights:
            return f"s-{int(random() * self._count) + 1}"
        index = bisect_right(self._weights, random() * self._weights[-1])
        return f"s-{min(index, self._count - 1) + 1}"


def body(intent: Intent, model: str, run: str) -> bytes:
    """The request's JSON as the official clients send it.

    `run` is 8 hex digits. With the intent's number it is the mark that the prompt begins with, by which the simulated
    backend's log is joined with ours.
    """
    prompt = b"#%b.%d" % (run.encode(), intent.number)
    if intent.words > 1:
        prompt += b" " + text(intent.number * _STRIDE, intent.words - 1)
    head = msgspec.json.encode(model) + (b',"stream":true' if intent.kind.stream else b"")
    tail = b"" if intent.max_tokens is None else b',"max_tokens":%d' % intent.max_tokens
    return b'{"model":%b,"messages":[{"role":"user","content":"%b"}]%b}' % (head, prompt, tail)


def headers(intent: Intent, patience: float) -> bytes:
    """The header lines that differ from request to request, each with its end. `patience`: how many seconds the client
    still waits; told to the target where the kind says so."""
    kind = intent.kind
    lines = "" if intent.session is None else f"X-Session-Id: {intent.session}\r\n"
    if kind.class_ is not None:
        lines += f"X-Headgate-Class: {kind.class_}\r\n"
    if kind.send_deadline:
        lines += f"X-Request-Timeout-Ms: {max(int(patience * 1000), 1)}\r\n"
    for name, value in kind.headers.items():
        lines += f"{name}: {value}\r\n"
    return lines.encode("ascii")
