"""The report of one run. All times in seconds, all rates per second, memory in bytes; JSON by msgspec."""

from typing import Any

import msgspec

from benchmarks.histogram import Histogram

FORMAT = 1


class Counts(msgspec.Struct, kw_only=True):
    """How requests ended, each in one way. offered = the sum of the others.

    completed     whole answers within the client's patience
    shed          status 503
    rejected      any other 4xx than those of `expired`
    expired       504
    failed        500, 502 and other 5xx; error events; answers that broke off or make no sense
    cancelled     the client went away: its patience ended, or its scenario said so (`left` says how many of them)
    unreachable   no connection to the target
    unanswered    nothing came until the scenario's `hang_seconds`: the target hung
    unsent        not sent, because the generator was at its limit or was stopped
    """

    offered: int = 0
    completed: int = 0
    shed: int = 0
    rejected: int = 0
    expired: int = 0
    failed: int = 0
    cancelled: int = 0
    unreachable: int = 0
    unanswered: int = 0
    unsent: int = 0
    left: int = 0


class Refusal(msgspec.Struct, kw_only=True):
    """Attempts that were not served though their client waited: one entry for each combination.

    `where` is `door`, `queue` or `unknown`: the first two only where the target says so (`X-Headgate-Shed-Stage`).
    Where no whole answer came, `status` is the one that had come (0: none) and `code` says how the attempt ended:
    `broken`, `nonsense`, `error_event`, `unreachable`. `latency` is from the attempt's own (intended) start.
    """

    outcome: str
    status: int
    stage: str
    reason: str
    code: str
    where: str
    count: int = 0
    with_retry_after: int = 0
    retry_after: Histogram
    latency: Histogram


class Timings(msgspec.Struct, kw_only=True):
    """Of completed requests, from the intended send time; `gaps` between tokens of streams."""

    latency: Histogram
    first_token: Histogram
    gaps: Histogram


class Group(msgspec.Struct, kw_only=True):
    """The requests of one class or kind."""

    name: str
    counts: Counts
    timings: Timings


class Moment(msgspec.Struct, kw_only=True):
    """One stretch of the run's time line, `at` seconds after its start. Arrivals count where they were intended,
    ends where they happened. `p50`, `p99`: latency of those that completed in it; `oracle_p50`, `oracle_p99`: of those
    that the oracle completed in it."""

    at: float
    seconds: float
    offered: int = 0
    completed: int = 0
    shed: int = 0
    rejected: int = 0
    expired: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    p50: float | None = None
    p99: float | None = None
    oracle: int | None = None
    oracle_p50: float | None = None
    oracle_p99: float | None = None


class Oracle(msgspec.Struct, kw_only=True):
    """What was possible: see `benchmarks.oracle`. `share` is measured goodput ÷ the oracle's. `basis` says where its
    capacity comes from: `backend` (the simulated backend's own settings), `scenario`, or `measured` (the ramp's)."""

    basis: str
    slots: int
    wait_budget: float
    completed: int
    refused: int
    goodput: float
    share: float | None
    latency: Histogram


class Recovery(msgspec.Struct, kw_only=True):
    """How long it took after a disturbance until all was well again: see `benchmarks.load.recovery`.

    `at` is when it was, in seconds since the phase began, `what` says what it was (`surge over`, `slots 2`), `within`
    how many seconds there were to look at. Each of the others is seconds after `at`, None where it did not come to
    that. `goodput`: until as much completed as the oracle completes, or as arrives, less a tenth. `p50`, `oracle_p50`:
    until half of the requests completed within `p50_wanted` seconds; all three None where nothing was normal before, to
    come back to.
    """

    at: float
    what: str
    within: float
    goodput: float | None
    p50_wanted: float | None = None
    p50: float | None = None
    oracle_p50: float | None = None


class SessionWork(msgspec.Struct, kw_only=True):
    """What became of one session's requests."""

    name: str
    offered: int
    completed: int


class Sessions(msgspec.Struct, kw_only=True):
    """Of all `count` sessions that asked for anything: `jain` is Jain's index over how many requests of each completed
    (Jain, Chiu and Hawe, 1984; 1: all the same, 1 / count: one got everything). `busiest` are those that asked for
    most, `least` and `most` what the sessions completed at least and at most."""

    count: int
    jain: float | None
    least: int
    most: int
    busiest: list[SessionWork]


class PhaseReport(msgspec.Struct, kw_only=True):
    """`load` is the multiple of capacity where that is known; `seconds` is how long arrivals lasted, `took` until the
    last answer. `counts` are of the requests that arrived in the phase, whenever they ended. `goodput` is the
    requests that completed while arrivals lasted ÷ `seconds`, so that a long queue that empties afterwards adds nothing
    to it; the oracle's is counted alike. `outlived`: backend work for clients that had gone. `least_share` is what the
    scenario asks of `oracle.share`. `recoveries`: one for each disturbance that the scenario makes."""

    name: str
    arrivals: str
    at: float
    seconds: float
    took: float
    warmup: bool
    rate: float
    load: float | None
    counts: Counts
    goodput: float
    timings: Timings
    attempts: int
    retried: int
    refusals: list[Refusal]
    kinds: list[Group]
    classes: list[Group]
    oracle: Oracle | None
    outlived: "Outlived | None"
    least_share: float | None = None
    recoveries: list[Recovery] = []
    sessions: Sessions | None = None


class Outlived(msgspec.Struct, kw_only=True):
    """Work of the simulated backend for clients that had gone: all the seconds that slots were held for them, also the
    few milliseconds until word of their leaving came, and how many `requests` held one for more than 0.1 s longer.
    `share` is of the time that slots were held at all. `ended_after`: how long after their clients had gone these
    clients' calls ended, one value for each call that had not ended before, whether it had a slot or waited for one.
    """

    requests: int
    seconds: float
    share: float | None
    ended_after: Histogram = msgspec.field(default_factory=Histogram)


class Sample(msgspec.Struct, kw_only=True):
    """The target's processes at one moment: cores in use since the last sample, resident bytes, processes. `by_pid` has
    the resident bytes of each process, of the largest ones where there are many."""

    at: float
    cores: float
    resident: int
    processes: int
    by_pid: dict[int, int] = {}


class Processes(msgspec.Struct, kw_only=True):
    """`found` says how: `port` (who listens there), `pid` (named by the user), or why there is nothing.
    `cpu` in seconds over the run; `cpu_per_request` over all requests that were sent, retries too."""

    found: str
    pids: list[int]
    cpu: float | None
    cpu_per_request: float | None
    peak_resident: int | None
    samples: list[Sample]


class Lag(msgspec.Struct, kw_only=True):
    """How late the generator sent: actual minus intended. `behind` lists stretches in which it was later than
    `threshold`: (from, to, worst lag). `cores` is the generator's own CPU use."""

    threshold: float
    lag: Histogram
    behind: list[tuple[float, float, float]]
    cores: float
    peak_in_flight: int
    connections: int
    resent: int


class BackendCounts(msgspec.Struct, kw_only=True):
    """The simulated backend's own count of this run, over all replicas. `shed_late`: requests that the backend had got,
    though their clients were told 503; None where clients tried again, and it cannot be told which attempt it got."""

    replicas: int
    arrivals: int
    served: int
    cancelled: int
    failed: int
    refused: int
    left_running: int
    busy_seconds: float
    wasted_seconds: float
    agrees: bool
    problems: list[str]
    shed_late: int | None = None


class Account(msgspec.Struct, kw_only=True):
    """One outcome at the client, and the range that the target's `/metrics` may show for it, and what they show."""

    outcome: str
    client: int
    least: int
    most: int
    target: int
    agrees: bool


class Ended(msgspec.Struct, kw_only=True):
    """How many requests the target counted that ended in this way, and where."""

    outcome: str
    stage: str
    reason: str
    count: int


class Accounting(msgspec.Struct, kw_only=True):
    """The identity. `balanced`: offered = the sum of outcomes, at the client; `target` is None where the target shows
    no metrics of ours. `problems` says what is broken, in sentences; empty means that everything adds up. `ended`: how
    requests ended by the target's own count, most first."""

    balanced: bool
    target: list[Account] | None
    problems: list[str]
    ended: list[Ended] = []


class Capacity(msgspec.Struct, kw_only=True):
    """`how`: `given`, `backend`, `scenario` or `found`; `steps` of the ramp: (requests in flight, completed per
    second)."""

    rate: float
    how: str
    in_flight: int | None
    steps: list[tuple[int, float]]


class Environment(msgspec.Struct, kw_only=True):
    started: str
    headgate: str
    commit: str
    python: str
    libraries: dict[str, str]
    system: str
    machine: str
    cores: int
    processor: str


class Target(msgspec.Struct, kw_only=True):
    url: str
    model: str
    server: str
    version: str
    ours: bool
    local: bool


class Report(msgspec.Struct, kw_only=True):
    """`run` is what the prompts of this run were marked with, eight hexadecimal digits. `ended`: `done`, `interrupted`,
    or what ended the run early. `notes`: what a reader has to know before believing the figures (the generator fell
    behind, …); empty on a sound run. `faults`: where the run was not what its scenario says, or where counts are
    missing that were asked for; `--check` fails on them."""

    format: int = FORMAT
    run: str = ""
    name: str
    scenario_name: str
    scenario: dict[str, Any]
    command: list[str]
    seed: int
    seconds: float
    ended: str
    environment: Environment
    target: Target
    capacity: Capacity | None
    totals: Counts
    timings: Timings
    phases: list[PhaseReport]
    moments: list[Moment]
    generator: Lag
    processes: Processes
    backend: BackendCounts | None
    accounting: Accounting
    notes: list[str]
    faults: list[str] = []
