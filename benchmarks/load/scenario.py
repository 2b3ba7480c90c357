"""What is to be run, as a TOML file says it. Field by field: `docs/reference/scenarios.md`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from benchmarks.service import Service, Share

Positive = Annotated[float, Meta(gt=0.0, le=1_000_000.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,39}(?!\n)$",
        description="a name of at most 40 letters, digits, spaces and . _ : / + - that begins with a letter or digit",
    ),
]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Sizes(Table, frozen=True):
    """A number that differs from request to request.

    `mean` alone: always that, rounded. `spread`: lognormal with this standard deviation as a share of the mean; what is
    below `least` becomes that, what is above `most` becomes that.
    """

    mean: Positive
    spread: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    least: Count = 1
    most: Count = 100_000


class Leave(Table, frozen=True):
    """Clients that go away: a `share` of them closes the connection, at one given point.

    `after`: `sent` (as soon as the request is out), `head` (status line), `first_token`, or `tokens` (then `tokens`
    says how many), or `seconds` (from the intended send time).
    """

    share: Share
    after: Literal["sent", "head", "first_token", "tokens", "seconds"]
    tokens: Count = 1
    seconds: Seconds = 1.0


class Kind(Table, frozen=True):
    """One kind of request of the mix.

    weight        its share, beside the other kinds' weights
    stream        whether the answer is asked for as SSE
    prompt_words  words of the prompt; the generator's own mark is the first of them
    max_tokens    the request's `max_tokens`; None: the request names none
    class_        key `class`; sent as `X-Headgate-Class`, and the report tells classes apart
    deadline_ms   how long the client waits, from the intended send time; then it closes the connection. None: the
                  scenario's `hang_seconds`, which then counts as hanging
    send_deadline whether `X-Request-Timeout-Ms` tells the target
    headers       further header lines
    """

    name: Name = "default"
    weight: Positive = 1.0
    stream: bool = False
    prompt_words: Sizes = Sizes(mean=20)
    max_tokens: Sizes | None = None
    class_: Literal["critical", "high", "normal", "low"] | None = msgspec.field(name="class", default=None)
    deadline_ms: Annotated[float, Meta(gt=0.0, le=86_400_000.0)] | None = None
    send_deadline: bool = False
    leave: Leave | None = None
    headers: dict[str, str] = {}


class Sessions(Table, frozen=True):
    """Which requests belong together: `share` of them carry one of `count` session ids in `X-Session-Id`.

    `skew` is the exponent of Zipf's law over the sessions: 0 makes all equally busy, 1.2 a few very. The first `heavy`
    of them ask `times` as often as they would.
    """

    count: Count
    skew: Annotated[float, Meta(ge=0.0, le=5.0)] = 0.0
    share: Share = 1.0
    heavy: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    times: Annotated[float, Meta(gt=0.0, le=1_000_000.0)] = 1.0


class Retries(Table, frozen=True):
    """Retries as the official OpenAI clients make them: up to `max` after 408, 409, 429, 5xx and broken connections.

    `at_once`: by impatient clients, who do not wait before they ask again, whatever the answer said.
    """

    max: Annotated[int, Meta(ge=0, le=100)] = 2
    at_once: bool = False


class Change(Table, frozen=True):
    """What changes at the simulated backend, `at` seconds after the phase began."""

    at: Annotated[float, Meta(ge=0.0, le=86_400.0)]
    slots: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    first_token_ms: Annotated[float, Meta(ge=0.0, le=600_000.0)] | None = None
    tokens_per_second: Annotated[float, Meta(ge=0.0, le=1_000_000.0)] | None = None
    failure_rate: Share | None = None
    stall_rate: Share | None = None


class Phase(Table, frozen=True, kw_only=True):
    """A stretch of time with one kind of arrivals.

    `rate` is requests a second; `load` is the same as a multiple of the capacity. One of them, or `clients`, or `file`.

    arrivals       poisson | constant | burst | ramp | surge | trace | closed
    burst          requests that come at the same moment (every `burst / rate` seconds)
    to_rate, to_load   where a ramp ends; what a surge rises to
    surge_at, surge_seconds   when a surge begins, in seconds after the phase did, and how long it lasts
    clients        closed loop: as many clients, each sends when it has its answer (and thought for `think_seconds`)
    file           trace: a file of arrivals, relative to the scenario's file; `speed` runs it faster or slower
    pause_seconds  quiet time before the phase, after all answers of the one before have come
    warmup         run it, but leave it out of the totals
    least_share    of the oracle's goodput that has to be reached, or `--check` fails
    """

    name: Name
    seconds: Seconds
    arrivals: Literal["poisson", "constant", "burst", "ramp", "surge", "trace", "closed"] = "poisson"
    rate: Positive | None = None
    load: Positive | None = None
    to_rate: Positive | None = None
    to_load: Positive | None = None
    surge_at: Annotated[float, Meta(ge=0.0, le=86_400.0)] | None = None
    surge_seconds: Seconds | None = None
    burst: Annotated[int, Meta(ge=2, le=100_000)] | None = None
    clients: Annotated[int, Meta(ge=1, le=20_000)] | None = None
    think_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    file: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    speed: Positive = 1.0
    pause_seconds: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    warmup: bool = False
    least_share: Share | None = None
    changes: list[Change] = []


class Scenario(Table, frozen=True, kw_only=True):
    """capacity: requests a second that `load = 1` stands for; None: the simulated backend's where it is known, else
    it is found by a ramp before the first phase. wait_budget_ms: what the oracle lets a request wait.
    """

    description: Annotated[str, Meta(max_length=500)] = ""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1
    capacity: Positive | None = None
    wait_budget_ms: Annotated[float, Meta(gt=0.0, le=600_000.0)] = 500.0
    hang_seconds: Seconds = 60.0
    max_requests: Annotated[int, Meta(ge=1, le=10_000_000)] = 1_000_000
    max_in_flight: Annotated[int, Meta(ge=1, le=50_000)] = 10_000
    phases: Annotated[list[Phase], Meta(min_length=1, max_length=1000)]
    requests: Annotated[list[Kind], Meta(min_length=1, max_length=100)] = msgspec.field(
        default_factory=lambda: [Kind()]
    )
    sessions: Sessions | None = None
    retries: Retries = Retries(max=0)
    backend: Service | None = None
