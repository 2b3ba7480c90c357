"""The books: what the clients saw beside what the target counted, request by request where that can be known.

A client that has its answer knows what the target must have booked. One that went away before does not: the target may
have booked anything, or nothing if it never read the request. So each outcome has a range, and the target's own count
has to lie in it:

    the client has              the target has booked it as
    a whole answer              completed
    an error, told by its code  what that code stands for (`_BOOKED_AS`), in a status as well as in a stream
    a refusal of the connection's own, such as an unknown path: nothing (`_UNBOOKED`), or perhaps rejected (`_PERHAPS`)
    an error without such code  anything, or nothing: something else may have answered in the target's place
    an error in a stream, without such code: anything but completed
    broken, nonsense            anything, or nothing: it may have ended before it was read, or after its last byte
    gone, stopped, timed out    anything, or nothing
    no connection               nothing
    resent after a kept connection turned out to be closed: each time once more anything, or nothing
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.load.answer import Answer, End
from benchmarks.load.backend_client import Row, RunLog
from benchmarks.load.ledger import outcome
from benchmarks.load.scrape import Difference
from benchmarks.report.model import Account, Accounting, BackendCounts, Counts, Ended, Outlived

OUTCOMES = ("completed", "shed", "rejected", "expired", "failed", "cancelled")

_BOOKED_AS = {
    "overloaded": "shed",
    "deadline_exceeded": "expired",
    "cancelled": "cancelled",  # the target shut down; its status is 503
    "internal_error": "failed",
    "backend_error": "failed",
    "retrieval_error": "failed",
    "shard_lost": "failed",  # its status is 503
} | dict.fromkeys(
    """
    invalid_value invalid_json invalid_type missing_required_parameter unknown_parameter context_length_exceeded
    backend_refused model_not_found unsupported_media_type expectation_failed request_too_large
    invalid_api_key permission_denied rate_limit_exceeded
    """.split(),
    "rejected",
)
_UNBOOKED = frozenset({"unknown_url", "method_not_allowed", "request_head_too_large", "metrics_unavailable"})
_PERHAPS = frozenset({"malformed_http", "request_timeout"})  # booked where the head was there and the body was at fault


class Fate(NamedTuple):
    """What the target may have booked an attempt as: one of `outcomes`, and if not `certain`, perhaps nothing."""

    outcomes: frozenset[str]
    certain: bool


_ANY = frozenset(OUTCOMES)
_UNKNOWN = Fate(_ANY, certain=False)
_NOTHING = Fate(frozenset(), certain=False)


def fate(answer: Answer) -> Fate:
    """Of an attempt of which something was sent."""
    if answer.end is End.WHOLE:
        return Fate(frozenset({"completed"}), certain=True)
    if answer.end not in (End.REFUSED, End.ERROR_EVENT):
        return _UNKNOWN
    booked = _BOOKED_AS.get(answer.code)
    if booked is not None:
        return Fate(frozenset({booked}), certain=True)
    if answer.end is End.ERROR_EVENT:
        return Fate(_ANY - {"completed"}, certain=True)
    if answer.code in _UNBOOKED:
        return _NOTHING
    return Fate(frozenset({"rejected"}), certain=False) if answer.code in _PERHAPS else _UNKNOWN


class Attempts:
    """Every attempt by what its client saw, in a form that stays small. `seen` counts those that were sent."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.fates: Counter[Fate] = Counter()
        self.resent = 0
        self.unsent = 0

    def book(self, answer: Answer) -> None:
        if answer.resent:
            self.resent += answer.resent
            self.fates[_UNKNOWN] += answer.resent
        if not answer.sent:
            self.unsent += 1
            return
        self.seen[outcome(answer)] += 1
        self.fates[fate(answer)] += 1

    @property
    def sent(self) -> int:
        """How often a request was sent, at most."""
        return self.seen.total() + self.resent

    def least(self, *outcomes: str) -> int:
        """How many the target must have booked as one of these."""
        return sum(n for each, n in self.fates.items() if each.certain and each.outcomes.issubset(outcomes))

    def most(self, *outcomes: str) -> int:
        """How many it may have."""
        return sum(n for each, n in self.fates.items() if not each.outcomes.isdisjoint(outcomes))


def compare(counts: Counts, attempts: Attempts, counted: Difference | None) -> Accounting:
    """The identity at the client (`counts` are of all requests, warm-up too), and between it and the target.

    `counted` is None where the target shows no metrics of ours.
    """
    problems = list(_at_client(counts))
    if counted is None:
        return Accounting(balanced=_balanced(counts), target=None, problems=problems)
    problems += counted.problems
    if counted.open_after:
        problems.append(f"{_requests(counted.open_after)} still open at the target after the last answer.")
    accounts = None
    if counted.comparable:
        accounts = _accounts(attempts, counted)
        problems += [_disagreement(each, counted) for each in accounts if not each.agrees]
    ended = [
        Ended(outcome=outcome, stage=stage, reason=reason, count=count)
        for (outcome, stage, reason), count in counted.ended.most_common()
    ]
    return Accounting(balanced=_balanced(counts), target=accounts, problems=problems, ended=ended)


def _balanced(counts: Counts) -> bool:
    return counts.offered == _ended(counts)


def _ended(counts: Counts) -> int:
    return sum(getattr(counts, name) for name in (*OUTCOMES, "unreachable", "unanswered", "unsent"))


def _at_client(counts: Counts) -> Iterator[str]:
    if not _balanced(counts):
        yield f"The generator lost count: {counts.offered} requests offered, but {_ended(counts)} ended."
    if counts.unanswered:
        yield f"{_requests(counts.unanswered)} never answered, within the time after which that counts as hanging."


def _accounts(attempts: Attempts, counted: Difference) -> list[Account]:
    """First the requests that reached the target, then each outcome.

    Requests that were open before the run are not this run's, but they end during it.
    """
    ended = {name: sum(n for (which, _, _), n in counted.ended.items() if which == name) for name in OUTCOMES}
    most = attempts.most(*OUTCOMES) + counted.unrouted_before
    rows = [_account("offered", attempts.seen.total(), attempts.least(*OUTCOMES), most, counted.offered)]
    for name in OUTCOMES:
        most = attempts.most(name) + counted.open_before
        rows.append(_account(name, attempts.seen[name], attempts.least(name), most, ended[name]))
    return rows


def _account(name: str, client: int, least: int, most: int, target: int) -> Account:
    return Account(outcome=name, client=client, least=least, most=most, target=target, agrees=least <= target <= most)


def _disagreement(account: Account, counted: Difference) -> str:
    reasons = [
        f"{stage}/{reason} {count}"
        for (which, stage, reason), count in counted.ended.most_common()
        if which == account.outcome and count > 0
    ]
    shown = f" ({', '.join(reasons[:5])})" if reasons else ""
    says = f"The target counted {account.target} requests as {account.outcome}{shown}"
    if account.target > account.most:
        return (
            f"{says}, but this run can have caused {account.most} at most: somebody else used the target meanwhile, or "
            "it counts requests twice."
        )
    return f"{says}, but this run's clients know of {account.least}: requests are missing from the target's count."


def _requests(count: int) -> str:
    return "1 request was" if count == 1 else f"{count} requests were"


class Clients(NamedTuple):
    """The clients' side of a run: the numbers of the requests that completed, how many attempts were `sent` at most,
    and when (wall-clock seconds) the clients had gone that went away. `shed`: numbers of those that were told 503 when
    they asked for the only time; None where some asked again."""

    completed: Collection[int]
    sent: int
    gone: Mapping[int, float]
    shed: Collection[int] | None = None


NOTICE = (
    0.1  # seconds for word of a client's leaving to come to the backend: work that ends by then was stopped in time
)


def agree_backend(
    log: RunLog, clients: Clients, phases: Sequence[range], replicas: int
) -> tuple[BackendCounts, list[Outlived]]:
    """What the clients saw beside what the simulated backend did, joined by the requests' numbers; and for each phase
    (its numbers, in ascending order) the work for clients that had gone.

    `Outlived.seconds` are all seconds that slots were held after their client had gone, `requests` those whose slot was
    held for more than NOTICE of them. `BackendCounts.agrees` is False when a statement of `_broken` is.
    """
    problems = list(_broken(log, clients))
    agrees = not problems
    if log.left_out:
        problems.append(
            f"The backend had dropped {log.left_out} rows of this run; figures that need them leave them out."
        )
    outlived = _outlived(log, clients.gone, phases)
    counts = log.counts
    return (
        BackendCounts(
            replicas=replicas,
            arrivals=counts.arrivals,
            served=counts.served,
            cancelled=counts.cancelled,
            failed=counts.failed,
            refused=counts.refused,
            left_running=log.running,
            busy_seconds=counts.busy_seconds,
            wasted_seconds=sum(each.seconds for each in outlived),
            agrees=agrees,
            problems=problems,
            shed_late=None if clients.shed is None else len({row.number for row in log.rows} & set(clients.shed)),
        ),
        outlived,
    )


def _broken(log: RunLog, clients: Clients) -> Iterator[str]:
    """What does not add up. A request may have several rows: of several attempts, at one replica or more."""
    counts = log.counts
    served = {row.number for row in log.rows if row.outcome == "served"}
    if log.left_out:
        missing = max(len(clients.completed) - counts.served, 0)
    else:
        missing = sum(number not in served for number in clients.completed)
    if missing:
        yield (
            f"{missing} of {len(clients.completed)} completed requests were never served by the backend: something on "
            "the way answered them itself, a cache say, or the target uses another backend."
        )
    if counts.arrivals > clients.sent:
        yield (
            f"The backend got {counts.arrivals} requests, though {clients.sent} were sent: something on the way asks "
            "again by itself."
        )
    ended = counts.served + counts.cancelled + counts.failed + counts.refused
    if counts.arrivals != ended + log.running and not log.left_out:
        yield (
            f"The backend's own count does not add up: {counts.arrivals} requests arrived, but {ended} ended and "
            f"{log.running} run."
        )


def _outlived(log: RunLog, gone: Mapping[int, float], phases: Sequence[range]) -> list[Outlived]:
    found = [Outlived(requests=0, seconds=0.0, share=None) for _ in phases]
    held = [0.0] * len(phases)
    starts = [phase.start for phase in phases]
    late: list[set[int]] = [set() for _ in phases]
    for row in log.rows:
        index = bisect_right(starts, row.number) - 1
        if index < 0 or row.number not in phases[index]:
            continue
        held[index] += _held(row, 0.0, log.taken)
        after = _held(row, gone[row.number], log.taken) if row.number in gone else 0.0
        found[index].seconds += after
        if after > NOTICE:
            late[index].add(row.number)
        if row.number in gone and (beyond := _until(row, log.taken) - gone[row.number]) > 0.0:
            found[index].ended_after.add(beyond)
    for outlived, numbers, seconds in zip(found, late, held, strict=True):
        outlived.requests = len(numbers)
        outlived.share = outlived.seconds / seconds if seconds else None
    return found


def _held(row: Row, since: float, now: float) -> float:
    """Seconds that the request held a slot, from `since` on; one that runs holds it until `now`."""
    if row.started is None:
        return 0.0
    return max(_until(row, now) - max(row.started, since), 0.0)


def _until(row: Row, now: float) -> float:
    return now if row.outcome == "running" or row.ended is None else row.ended
