"""How long a simulated backend works on a request: one model for the backend, the scenarios and the oracle.

A backend has `slots` places. A request waits for one in order of arrival, holds it while it is worked on, and
takes as long as the settings and its own number say, so that the oracle can know what the backend will do.
"""

import math
from statistics import NormalDist
from typing import Annotated, Literal, NamedTuple

import msgspec
import xxhash
from msgspec import Meta

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Distribution = Literal["constant", "uniform", "exponential", "lognormal"]
MOST_UNIFORM_SPREAD = 0.577  # 1 / √3: from 0 to twice the mean
_NORMAL = NormalDist()


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a simulated backend does. All of it can be changed while it runs.

    slots                   requests that it works on at once
    first_token_ms          mean time from getting a slot to the first token
    tokens_per_second       of one request, after its first token; 0: all tokens come with the first
    tokens                  tokens of an answer whose request names no `max_tokens`; one that does gets as many
    prompt_ms_per_1k        what 1,000 words of prompt add to the time to the first token
    distribution            of a request's factor on all its times; its mean is 1
    spread                  standard deviation of that factor (uniform: at most 0.577; exponential: always 1)
    failure_rate            share of requests that are answered `failure_status` when they got their slot
    failure_status          500, or what else should come
    stall_rate              share of requests whose work stops for `stall_seconds` after half of their tokens
    stall_seconds           how long
    queue                   requests that may wait for a slot; more are answered 503 with Retry-After. None: no limit
    cancel                  whether work stops when the client goes away (vLLM does) or is carried to its end
    seed                    of factors, failures and stalls
    """

    slots: Annotated[int, Meta(ge=0, le=100_000)] = 8
    first_token_ms: Annotated[float, Meta(ge=0.0, le=600_000.0)] = 100.0
    tokens_per_second: Annotated[float, Meta(ge=0.0, le=1_000_000.0)] = 0.0
    tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 16
    prompt_ms_per_1k: Annotated[float, Meta(ge=0.0, le=600_000.0)] = 0.0
    distribution: Distribution = "constant"
    spread: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.5
    failure_rate: Share = 0.0
    failure_status: Annotated[int, Meta(ge=400, le=599)] = 500
    stall_rate: Share = 0.0
    stall_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] = 1.0
    queue: Annotated[int, Meta(ge=0)] | None = None
    cancel: bool = True
    seed: int = 1


class Course(NamedTuple):
    """How one answer is made, in seconds from the moment that its request got a slot.

    The first token comes after `first`, the others `gap` seconds apart; after half of them (rounded up) come `stall`
    seconds of nothing.
    """

    first: float
    gap: float
    tokens: int
    stall: float

    @property
    def duration(self) -> float:
        """How long the slot is held."""
        return self.first + (self.tokens - 1) * self.gap + self.stall

    def due(self, position: int) -> float:
        """When a token is there; the first has position 0."""
        return self.first + position * self.gap + (self.stall if position >= self._half else 0.0)

    def made(self, elapsed: float) -> int:
        """How many tokens are there."""
        if elapsed < self.first:
            return 0
        before = min(self._steps(elapsed - self.first), self._half)
        after = min(self._steps(elapsed - self.first - self.stall), self.tokens)
        return max(before, after)

    @property
    def _half(self) -> int:
        return (self.tokens + 1) // 2 if self.stall else self.tokens

    def _steps(self, seconds: float) -> int:
        if seconds < 0.0:
            return 0
        return self.tokens if self.gap == 0.0 else int(min(seconds / self.gap, self.tokens)) + 1


def course(service: Service, number: int, words: int, max_tokens: int | None) -> Course:
    """What a request goes through: the same for the same settings, number and sizes, in every process.

    `number` is the request's own, `words` are those of its prompt.
    """
    times = factor(service, number)
    gap = times / service.tokens_per_second if service.tokens_per_second else 0.0
    stall = service.stall_seconds if stalls(service, number) else 0.0
    return Course(_first(service, words) * times, gap, tokens(service, max_tokens), stall)


def first_token(service: Service, number: int, words: int) -> float:
    """Seconds from getting a slot to the first token."""
    return _first(service, words) * factor(service, number)


def duration(service: Service, number: int, words: int, max_tokens: int | None) -> float:
    """Seconds that a request that does not fail holds its slot."""
    return course(service, number, words, max_tokens).duration


def tokens(service: Service, max_tokens: int | None) -> int:
    return service.tokens if max_tokens is None else max_tokens


def factor(service: Service, number: int) -> float:
    """Of all times of a request but its stall. The mean over all numbers is 1."""
    spread = service.spread
    match service.distribution:
        case "exponential":
            return -math.log(_share(service, number, "times"))
        case "uniform" if spread:
            half = min(spread * math.sqrt(3.0), 1.0)
            return 1.0 + half * (2.0 * _share(service, number, "times") - 1.0)
        case "lognormal" if spread:
            variance = math.log1p(spread * spread)
            normal = _NORMAL.inv_cdf(_share(service, number, "times"))
            return math.exp(math.sqrt(variance) * normal - variance / 2)
    return 1.0


def fails(service: Service, number: int) -> bool:
    return service.failure_rate > 0.0 and _share(service, number, "failure") < service.failure_rate


def stalls(service: Service, number: int) -> bool:
    return service.stall_rate > 0.0 and _share(service, number, "stall") < service.stall_rate


def mean_duration(service: Service, words: float, max_tokens: float | None) -> float:
    """Seconds that a request of this size holds its slot, in the mean over those that do not fail."""
    count = service.tokens if max_tokens is None else max_tokens
    gap = 1.0 / service.tokens_per_second if service.tokens_per_second else 0.0
    return _first(service, words) + (count - 1) * gap + service.stall_rate * service.stall_seconds


def capacity(service: Service, words: float, max_tokens: float | None) -> float | None:
    """Requests of this size a second that are served when all slots are always held; failures come on top.

    None where that is no figure: there are no slots, or requests take no time.
    """
    seconds = mean_duration(service, words, max_tokens)
    return service.slots / seconds if service.slots and seconds > 0.0 else None


def _first(service: Service, words: float) -> float:
    return (service.first_token_ms + service.prompt_ms_per_1k * words / 1000.0) / 1000.0


def _share(service: Service, number: int, purpose: str) -> float:
    """Evenly spread over the numbers between 0 and 1, without both. 52 bits, so that the largest is below 1."""
    bits = xxhash.xxh3_64_intdigest(f"{purpose} {service.seed} {number}".encode()) >> 12
    return (bits + 0.5) / (1 << 52)
