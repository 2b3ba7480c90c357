"""How long a simulated backend works on a request: one model for the backend, the scenarios and the oracle.

A backend has `slots` places. A request waits for one in order of arrival, holds it while it is worked on, and
takes as long as the settings and its own number say, so that the oracle can know what the backend will do.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Distribution = Literal["constant", "uniform", "exponential", "lognormal"]


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a simulated backend does. All of it can be changed while it runs.

    slots                   requests that it works on at once
    first_token_ms          mean time from getting a slot to the first token
    tokens_per_second       of one request, after its first token; 0: all tokens come with the first
    tokens                  tokens of an answer whose request names no `max_tokens`; never more than the request names
    prompt_ms_per_1k        what 1,000 words of prompt add to the time to the first token
    distribution            of a request's factor on all its times; its mean is 1
    spread                  standard deviation of that factor (uniform: at most 0.577; exponential: always 1)
    failure_rate            share of requests that are answered `failure_status` when they got their slot
    failure_status          500, or what else should come
    stall_rate              share of requests whose stream stops for `stall_seconds` after half of its tokens
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
