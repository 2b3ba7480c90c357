"""The tables of one run's page."""

from collections.abc import Iterable, Sequence

from benchmarks.report import facts, parts, units
from benchmarks.report.model import Counts, Group, PhaseReport, Refusal, Report, Sessions
from benchmarks.report.parts import Absent, Cell, Facts, Table

PHASES = 100
REFUSALS = 60
GROUPS = 120
BUSIEST = 20
WITH_SESSIONS = 8


def _few(phases: Sequence[PhaseReport], most: int = PHASES) -> tuple[list[PhaseReport], str]:
    shown, more = parts.busiest(phases, most, lambda phase: -1.0 if phase.warmup else facts.offered_rate(phase))
    return shown, f"{units.some(more, 'phase')} of lower load are left out; the JSON file has them." if more else ""


def _named(phase: PhaseReport) -> Cell:
    return parts.words(facts.named(phase), 52, "quiet" if phase.warmup else "")


def loads(report: Report) -> Table:
    """What each phase asked for, and what came of it."""
    extra = [name for name in ("unreachable", "unanswered", "unsent") if _any(report.phases, name)]
    columns = [
        "phase",
        "length",
        "offered",
        "load",
        "goodput",
        "of the oracle's",
        "completed",
        "shed",
        "share shed",
    ]
    columns += ["rejected", "expired", "failed", "cancelled", *extra, "retries"]
    shown, note = _few(report.phases)
    rows = [
        [
            _named(phase),
            parts.seconds(phase.seconds),
            parts.per_second(facts.offered_rate(phase)),
            Cell(units.ratio(phase.load), phase.load),
            parts.per_second(phase.goodput),
            parts.percent(facts.share(phase)),
            parts.count(phase.counts.completed),
            parts.count(phase.counts.shed),
            parts.percent(units.fraction(phase.counts.shed, phase.counts.offered)),
            parts.count(phase.counts.rejected),
            parts.count(phase.counts.expired),
            *(trouble(getattr(phase.counts, name)) for name in ("failed",)),
            parts.count(phase.counts.cancelled),
            *(trouble(getattr(phase.counts, name)) for name in extra),
            parts.count(phase.retried),
        ]
        for phase in shown
    ]
    return Table("Load and outcome by phase", columns, rows, note)


def _any(phases: Iterable[PhaseReport], field: str) -> bool:
    return any(getattr(phase.counts, field) for phase in phases)


def trouble(value: int) -> Cell:
    return parts.count(value, "bad" if value else "")


def times(report: Report) -> Table:
    shown, note = _few(report.phases)
    columns = ["phase", "latency p50", "p99", "p99.9", "longest"]
    columns += ["first token p50", "p99", "gap p50", "p99", "refused at the door p50", "p99"]
    rows = []
    for phase in shown:
        it = phase.timings
        door = facts.refusal_latency(phase.refusals, "door")
        rows.append(
            [
                _named(phase),
                *(parts.seconds(it.latency.percentile(share)) for share in (0.5, 0.99, 0.999)),
                parts.seconds(it.latency.most if it.latency.count else None),
                *(parts.seconds(it.first_token.percentile(share)) for share in (0.5, 0.99)),
                *(parts.seconds(it.gaps.percentile(share)) for share in (0.5, 0.99)),
                *(parts.seconds(door.percentile(share)) for share in (0.5, 0.99)),
            ]
        )
    if any(0 < phase.timings.latency.count < 1000 for phase in shown):
        note += " Of fewer than 1,000 requests, p99.9 is the longest; of fewer than 100, p99 is."
    return Table("Times of completed requests by phase", columns, rows, note.strip())


def refusals(report: Report) -> list[Table | Absent]:
    """One table for each place, since a refusal at the door and one after queueing are not the same service."""
    entries = facts.refusals(report.phases)
    if not entries:
        return [Absent("Refusals", "Nothing was refused, and nothing broke.")]
    titles = {
        "door": "Refused at the door: before any work was done",
        "queue": "Refused after queueing: its client waited in vain",
        "unknown": "Not served, and the target does not say where",
    }
    tables: list[Table | Absent] = []
    for where, title in titles.items():
        here = [
            entry for entry in entries if entry.where == where or (where == "unknown" and entry.where not in titles)
        ]
        if here:
            tables.append(_refused(title, here))
    return tables


def _refused(title: str, entries: Sequence[Refusal]) -> Table:
    columns = ["outcome", "status", "stage", "reason", "code", "count", "answered in p50", "p99", "longest"]
    columns += ["with Retry-After", "Retry-After p50"]
    shown, more = parts.busiest(entries, REFUSALS, lambda entry: entry.count)
    rows = [
        [
            parts.words(entry.outcome),
            Cell(str(entry.status) if entry.status else "none", entry.status),
            parts.words(entry.stage),
            parts.words(entry.reason),
            parts.words(entry.code),
            parts.count(entry.count),
            parts.seconds(entry.latency.percentile(0.5)),
            parts.seconds(entry.latency.percentile(0.99)),
            parts.seconds(entry.latency.most if entry.latency.count else None),
            parts.percent(units.fraction(entry.with_retry_after, entry.count)),
            parts.seconds(entry.retry_after.percentile(0.5)),
        ]
        for entry in shown
    ]
    note = f"{units.some(more, 'rarer combination')} left out; the JSON file has them." if more else ""
    return Table(title, columns, rows, note, frozenset({1, 2, 3, 4}))


def groups(report: Report) -> list[Table | Absent]:
    phases = facts.measured(report)
    tables: list[Table | Absent] = []
    for title, attribute in (("By class", "classes"), ("By kind of request", "kinds")):
        rows = [(phase, group) for phase in phases for group in getattr(phase, attribute)]
        if not rows:
            tables.append(Absent(title, f"There is no request to tell apart {title.lower()}."))
        elif len(rows) <= GROUPS:
            tables.append(_grouped(title, [(phase.name, phase.seconds, group) for phase, group in rows]))
        else:
            seconds = sum(phase.seconds for phase in phases)
            merged = facts.groups(getattr(phase, attribute) for phase in phases)
            tables.append(_grouped(title, [("all phases", seconds, group) for group in merged]))
    return tables


def recoveries(report: Report) -> list[Table]:
    """Nothing where the scenario disturbs nothing."""
    rows = [(phase, one) for phase in facts.measured(report) for one in phase.recoveries]
    if not rows:
        return []
    columns = ["what", "phase", "at", "goodput back after", "p50 back after", "the oracle's", "p50 wanted"]
    note = "After so long, and for at least three seconds, in seconds that slide; a dash: not before the next change."
    return [
        Table(
            "Until all was well again",
            columns,
            [
                [
                    parts.words(one.what),
                    parts.words(phase.name, 40),
                    parts.seconds(one.at),
                    parts.seconds(one.goodput),
                    parts.seconds(one.p50),
                    parts.seconds(one.oracle_p50),
                    parts.seconds(one.p50_wanted),
                ]
                for phase, one in rows[:GROUPS]
            ],
            note,
            left=frozenset({1}),
        )
    ]


def sessions(report: Report) -> list[Table]:
    """The busiest sessions, and how evenly all of them were served, of the hardest phases; nothing where there are
    none."""
    shown, _ = _few([phase for phase in facts.measured(report) if phase.sessions is not None], WITH_SESSIONS)
    return [_served(phase, phase.sessions) for phase in shown if phase.sessions is not None]


def _served(phase: PhaseReport, found: Sessions) -> Table:
    rows = [
        [
            parts.words(one.name),
            parts.count(one.offered),
            parts.count(one.completed),
            parts.percent(units.fraction(one.completed, one.offered)),
        ]
        for one in found.busiest[:BUSIEST]
    ]
    jain = "not known" if found.jain is None else f"{found.jain:.3f}"
    note = f"Of {units.some(found.count, 'session')}, {found.least:,} to {found.most:,} requests completed. "
    note += f"Jain's index: {jain}; 1 where all got the same, {1 / found.count:.2g} where one got everything."
    caption = f"{units.plain(phase.name, 40)}: the busiest sessions"
    return Table(caption, ["session", "offered", "completed", "of offered"], rows, note, half=True)


def _grouped(title: str, rows: Sequence[tuple[str, float, Group]]) -> Table:
    columns = ["name", "phase", "offered", "completed", "of offered", "shed", "failed", "cancelled"]
    columns += ["latency p50", "p99", "first token p50", "p99", "gap p50", "p99"]
    return Table(
        title,
        columns,
        [
            [
                parts.words(group.name),
                parts.words(phase, 40),
                parts.per_second(group.counts.offered / seconds if seconds else None),
                parts.per_second(group.counts.completed / seconds if seconds else None),
                parts.percent(units.fraction(group.counts.completed, group.counts.offered)),
                parts.percent(units.fraction(group.counts.shed, group.counts.offered)),
                trouble(facts.troubled(group.counts)),
                parts.count(group.counts.cancelled),
                *_two(group),
            ]
            for phase, seconds, group in rows
        ],
        left=frozenset({1}),
    )


def _two(group: Group) -> list[Cell]:
    it = group.timings
    return [
        parts.seconds(found.percentile(share))
        for found in (it.latency, it.first_token, it.gaps)
        for share in (0.5, 0.99)
    ]


def accounting(report: Report) -> list[Table | Absent]:
    it = report.accounting
    totals: Table | Absent = Table(
        "How requests ended, at the client (without warm-up)",
        ["outcome", "requests", "of offered"],
        [
            [parts.words(name), parts.count(value), parts.percent(units.fraction(value, report.totals.offered))]
            for name in Counts.__struct_fields__
            if (value := getattr(report.totals, name)) or name in {"offered", "completed", "shed"}
        ],
        "offered is the sum of the others; left is a part of cancelled." if report.totals.left else "",
        half=True,
    )
    if it.target is None:
        return [totals, Absent("Client and target", "The target shows no metrics that could be compared.")]
    rows = [
        [
            parts.words(account.outcome),
            parts.count(account.client),
            Cell(_span(account.least, account.most)),
            parts.count(account.target),
            Cell("yes", None, "good") if account.agrees else Cell("NO", None, "bad"),
        ]
        for account in it.target
    ]
    columns = ["outcome", "client", "target may show", "target shows", "agrees"]
    return [totals, Table("Client and target (with warm-up)", columns, rows, half=True)]


def _span(least: int, most: int) -> str:
    return units.count(least) if least == most else f"{units.count(least)} to {units.count(most)}"


def backend(report: Report) -> list[Table | Facts | Absent]:
    it = report.backend
    if it is None:
        return [
            Absent("The backend's own count", "The target's backend is not the simulated one: nothing is known of it.")
        ]
    wasted = units.fraction(it.wasted_seconds, it.busy_seconds)
    pairs = [
        ("agrees with the client", "yes" if it.agrees else "NO"),
        ("replicas", units.count(it.replicas)),
        ("arrived", units.count(it.arrivals)),
        ("served", units.count(it.served)),
        ("cancelled", units.count(it.cancelled)),
        ("failed", units.count(it.failed)),
        ("refused", units.count(it.refused)),
        ("left running when the run was over", units.count(it.left_running)),
        ("slots were held for", units.duration(it.busy_seconds)),
        ("of that for clients that had gone", f"{units.duration(it.wasted_seconds)} ({units.percent(wasted)})"),
    ]
    rows = [
        [
            _named(phase),
            parts.count(phase.outlived.requests),
            parts.seconds(phase.outlived.seconds),
            parts.percent(phase.outlived.share),
        ]
        for phase in _few(report.phases)[0]
        if phase.outlived
    ]
    items: list[Table | Facts | Absent] = [Facts("The backend's own count", pairs)]
    if rows:
        columns = ["phase", "requests for over 0.1 s", "slots held for", "of the phase's work"]
        items.append(Table("Work for clients that had gone", columns, rows))
    return items


def generator(report: Report) -> list[Table | Facts]:
    it = report.generator
    lag = it.lag
    pairs = [
        ("sent late by p50", units.duration(lag.percentile(0.5))),
        ("p99", units.duration(lag.percentile(0.99))),
        ("p99.9", units.duration(lag.percentile(0.999))),
        ("at most", units.duration(lag.most if lag.count else None)),
        ("counted as behind from", units.duration(it.threshold)),
        ("CPU of the generator", units.cores(it.cores)),
        ("requests in flight at most", units.count(it.peak_in_flight)),
        ("connections opened", units.count(it.connections)),
        ("sent again on a fresh connection", units.count(it.resent)),
    ]
    items: list[Table | Facts] = [Facts("How late requests were sent", pairs)]
    if it.behind:
        rows = [
            [parts.seconds(start), parts.seconds(end), parts.seconds(worst, "bad")]
            for start, end, worst in it.behind[:40]
        ]
        left = len(it.behind) - len(rows)
        note = "There, the figures are the generator's rather than the target's." + (f" {left} more." if left else "")
        items.append(Table("Stretches in which the generator was behind", ["from", "to", "worst lag"], rows, note))
    return items


def capacity(report: Report) -> list[Table | Facts]:
    it = report.capacity
    if it is None or not it.steps:
        return []
    rows = [[parts.count(in_flight), parts.per_second(rate)] for in_flight, rate in it.steps[:60]]
    return [Table("The ramp that found the capacity", ["in flight", "completed"], rows)]
