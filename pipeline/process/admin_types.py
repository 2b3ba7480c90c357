"""What the admin API says, as data: the daemon encodes it, the commands decode it."""

from typing import Any

from msgspec import Struct

from config.errors import Problem
from pipeline.observe.overview import RequestFigures, ShardFigures, WorkerFigures
from pipeline.process.control import Change


class ProcessStatus(Struct, frozen=True):
    """`uptime_s` is since the process's last start, 0.0 while it does not run; `pid` is then 0. `shard` is None for the
    supervisor and the knowledge process, which have no `load` (requests open there) and no pulse: `pulse_age_s` is how
    long ago the event loop turned last, None where that is not known. `reason` is what one that was
    given up died of."""

    name: str
    state: str
    pid: int
    restarts: int
    uptime_s: float
    shard: int | None = None
    load: int = 0
    pulse_age_s: float | None = None
    reason: str = ""


class DaemonStatus(Struct, frozen=True):
    """`requests` counts what was offered and how it ended, over all routes; `circuit_open` of the shed ones were
    refused because no backend could be called. `admin` is where the admin API listens, empty where it does not."""

    version: str
    address: str
    draining: bool
    uptime_s: float
    processes: list[ProcessStatus]
    requests: dict[str, int]
    admin: str = ""
    circuit_open: int = 0


class ShardStatus(Struct, frozen=True):
    """`processes` is one, or two while it is being replaced, the one that takes new requests first where both do."""

    shard: int
    processes: list[ProcessStatus]
    figures: ShardFigures


class Share(Struct, frozen=True):
    """A route's worker, or a worker's route, and the weight between them."""

    name: str
    weight: float


class WorkerStatus(Struct, frozen=True):
    """`settings` is its table of the configuration; values of headers are hidden, secrets are references. `figures` is
    None for a worker that no route has used yet. `fallback_of` are the routes that come to it when others have
    failed."""

    name: str
    kind: str
    drain: bool
    routes: list[Share]
    settings: dict[str, Any]
    figures: WorkerFigures | None
    fallback_of: list[str] = []


class RouteStatus(Struct, frozen=True):
    """`settings` is its table of the configuration."""

    name: str
    workers: list[Share]
    settings: dict[str, Any]
    figures: RequestFigures | None


class UsageFigures(Struct, frozen=True):
    """See `pipeline.observe.usage.Counts`."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    estimated_requests: int
    estimated_tokens: int


class UsageRow(Struct, frozen=True, omit_defaults=True):
    """What was used by the holders of this key ("-": without one) by this route of this worker, each as far as it was
    asked for; "(other)" are those that found no place in the table."""

    figures: UsageFigures
    key: str | None = None
    route: str | None = None
    worker: str | None = None


class UsageStatus(Struct, frozen=True):
    """Since the daemon's start, `uptime_s` ago; what shards have used within the last second may be missing."""

    uptime_s: float
    rows: list[UsageRow]
    total: UsageFigures


class Changed(Struct, frozen=True):
    """The answer to a change. `changed` is in force, `restart` is not before the daemon is started again. What is not
    `persistent` lasts until the configuration file is read again: at the next reload, or start."""

    persistent: bool
    changed: list[Change]
    restart: list[Change]


class Done(Struct, frozen=True):
    """The answer to what changes no configuration."""

    done: str


class ErrorDetail(Struct, frozen=True, omit_defaults=True):
    """`code` is for programs. `param` names the key, header or query at fault; `problems` says what is wrong with a
    configuration."""

    message: str
    code: str
    param: str | None = None
    problems: list[Problem] = []


class ErrorAnswer(Struct, frozen=True):
    error: ErrorDetail
