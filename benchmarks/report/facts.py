"""What follows from a report and is nowhere written in it: the verdict, sums over phases, sentences that both the
terminal and the page say."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from benchmarks.histogram import Histogram
from benchmarks.report import units
from benchmarks.report.model import Counts, Group, Lag, Outlived, PhaseReport, Refusal, Report, Timings

WHERE = {
    "door": "at the door",
    "queue": "after queueing",
    "unknown": "place unknown",
}


class Verdict(NamedTuple):
    """`sound`: believe it. `careful`: the reasons say what to keep in mind. `broken`: it does not add up."""

    level: Literal["sound", "careful", "broken"]
    headline: str
    reasons: list[str]


def verdict(report: Report) -> Verdict:
    broken, careful = _broken(report), _careful(report)
    if broken:
        return Verdict("broken", "Do not rely on this run: its figures do not add up.", _once(broken + careful))
    if careful:
        return Verdict("careful", "Read with care.", careful)
    return Verdict("sound", f"Sound: every request is accounted for, and the generator {_punctual(report)}.", [])


def _punctual(report: Report) -> str:
    """A run whose generator was late for moments is as good; one that was late for longer has a note that says so."""
    if not report.generator.behind:
        return "kept up"
    return f"was late for moments, by {units.duration(report.generator.lag.most)} at worst"


def _broken(report: Report) -> list[str]:
    accounting, backend = report.accounting, report.backend
    reasons = list(accounting.problems)
    if not accounting.balanced and not reasons:
        reasons.append("The requests offered are not the sum of the ways in which they ended.")
    for account in accounting.target or []:
        if not account.agrees and not accounting.problems:
            span = f"{account.least:,} to {account.most:,}"
            reasons.append(f"The target counts {account.target:,} {account.outcome}; the client's view allows {span}.")
    if backend:
        reasons += backend.problems
        if not backend.agrees and not backend.problems:
            reasons.append("The simulated backend's count does not fit the client's.")
    return _once(reasons)


def _careful(report: Report) -> list[str]:
    reasons = []
    if report.ended == "interrupted":
        reasons.append(
            f"The run was interrupted after {units.duration(report.seconds)}; it shows what was there by then."
        )
    elif report.ended != "done":
        reasons.append(f"The run ended early, after {units.duration(report.seconds)}: {report.ended}")
    if not any(phase.counts.offered for phase in report.phases):
        reasons.append("Nothing was measured: no request was offered.")
    elif not report.totals.offered:
        reasons.append("Only warm-up was run: there are no totals.")
    return _once(reasons + report.faults + report.notes)


def _once(reasons: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(units.plain(reason, 400) for reason in reasons))


# --- phases --------------------------------------------------------------------------------------------------------


def measured(report: Report) -> list[PhaseReport]:
    """The phases that count: without warm-up."""
    return [phase for phase in report.phases if not phase.warmup]


def hardest(report: Report) -> PhaseReport | None:
    """The measured phase with the most requests offered per second: what overload does shows there."""
    phases = [phase for phase in measured(report) if phase.counts.offered]
    return max(phases, key=offered_rate, default=None)


def named(phase: PhaseReport) -> str:
    """Its name, and that it is warm-up where the name does not say so."""
    return f"{phase.name} (warm-up)" if phase.warmup and "warm" not in phase.name.lower() else phase.name


def offered_rate(phase: PhaseReport) -> float:
    return phase.counts.offered / phase.seconds if phase.seconds else 0.0


def at_load(phase: PhaseReport) -> str:
    """How much was asked of the target, absolutely and beside its capacity."""
    load = "" if phase.load is None else f", {units.ratio(phase.load)} capacity"
    return f"{units.rate(offered_rate(phase))} offered{load}"


def share(phase: PhaseReport) -> float | None:
    return phase.oracle.share if phase.oracle else None


def highest_served(phase: PhaseReport) -> float | None:
    """Of the requests of the highest class, how many completed; None where the requests have no classes."""
    if not phase.classes:
        return None
    counts = phase.classes[0].counts
    return units.fraction(counts.completed, counts.offered)


def cores(report: Report, phase: PhaseReport) -> float | None:
    """What the target's processes used in the mean, while requests of this phase arrived."""
    used = [each.cores for each in report.processes.samples if phase.at < each.at <= phase.at + phase.seconds]
    return sum(used) / len(used) if used else None


def turned_away(counts: Counts) -> int:
    """Refused otherwise than with 503: by a status of 4xx or 504."""
    return counts.rejected + counts.expired


def troubled(counts: Counts) -> int:
    """What nobody wants to see: failed, no connection, no answer at all."""
    return counts.failed + counts.unreachable + counts.unanswered


def summary(report: Report) -> str:
    """The run in one sentence: its hardest phase."""
    phase = hardest(report)
    if phase is None:
        return ""
    oracle = share(phase)
    against = "" if oracle is None else f", {units.percent(oracle)} of what was possible"
    latency = phase.timings.latency
    served = (
        f"; half of them within {units.duration(latency.percentile(0.5))}, 99 % within "
        f"{units.duration(latency.percentile(0.99))}"
        if latency.count
        else ""
    )
    return f"{at_load(phase)}: {units.rate(phase.goodput)} completed{against}{served}{_rest(phase.counts)}."


def _rest(counts: Counts) -> str:
    """What became of those that did not complete, where they are many."""
    ways = (
        ("refused", counts.shed + turned_away(counts)),
        ("gave up or left", counts.cancelled),
        ("failed", troubled(counts)),
        ("not sent", counts.unsent),
    )
    many = [f"{units.percent(count / counts.offered)} {way}" for way, count in ways if count > 0.01 * counts.offered]
    return f"; {', '.join(many)}" if many else ""


# --- sums ----------------------------------------------------------------------------------------------------------


def refusals(phases: Iterable[PhaseReport]) -> list[Refusal]:
    """The same combination of several phases as one; at the door first, then by how many. The report stays as is."""
    merged: dict[tuple[str, int, str, str, str, str], Refusal] = {}
    for phase in phases:
        for entry in phase.refusals:
            key = (entry.outcome, entry.status, entry.stage, entry.reason, entry.code, entry.where)
            if key not in merged:
                merged[key] = Refusal(
                    outcome=entry.outcome,
                    status=entry.status,
                    stage=entry.stage,
                    reason=entry.reason,
                    code=entry.code,
                    where=entry.where,
                    retry_after=Histogram(),
                    latency=Histogram(),
                )
            into = merged[key]
            into.count += entry.count
            into.with_retry_after += entry.with_retry_after
            into.retry_after.merge(entry.retry_after)
            into.latency.merge(entry.latency)
    order = list(WHERE)
    return sorted(merged.values(), key=lambda one: (order.index(one.where) if one.where in order else 9, -one.count))


def refusal_latency(entries: Iterable[Refusal], where: str) -> Histogram:
    latency = Histogram()
    for entry in entries:
        if entry.where == where:
            latency.merge(entry.latency)
    return latency


def retry_after_share(entries: Iterable[Refusal]) -> float | None:
    """Of the answers 408, 429 and 503, where a client needs to know when to come back; None without any. (vllm-router
    answers 408 where a request waited too long.)"""
    busy = [entry for entry in entries if entry.status in {408, 429, 503}]
    return units.fraction(sum(entry.with_retry_after for entry in busy), sum(entry.count for entry in busy))


def outlived(report: Report) -> Outlived | None:
    """Over all phases; None where the backend is not known."""
    known = [phase.outlived for phase in report.phases if phase.outlived]
    if not known:
        return None
    seconds = sum(one.seconds for one in known)
    return Outlived(
        requests=sum(one.requests for one in known),
        seconds=seconds,
        share=units.fraction(seconds, report.backend.busy_seconds) if report.backend else None,
    )


def groups(per_phase: Iterable[list[Group]]) -> list[Group]:
    """Groups of the same name, over phases."""
    merged: dict[str, Group] = {}
    for entries in per_phase:
        for entry in entries:
            empty = Timings(latency=Histogram(), first_token=Histogram(), gaps=Histogram())
            into = merged.setdefault(entry.name, Group(name=entry.name, counts=Counts(), timings=empty))
            for field in Counts.__struct_fields__:
                setattr(into.counts, field, getattr(into.counts, field) + getattr(entry.counts, field))
            for field in Timings.__struct_fields__:
                getattr(into.timings, field).merge(getattr(entry.timings, field))
    return list(merged.values())


# --- sentences -----------------------------------------------------------------------------------------------------


def outlived_sentence(report: Report) -> str:
    work = outlived(report)
    if work is None:
        return "not known: no simulated backend was named (--backend)"
    if not work.seconds:
        return "none"
    of_busy = "" if work.share is None else f", {units.percent(work.share)} of its work"
    long = f"; {units.some(work.requests, 'request')} over 0.1 s"
    return f"{units.duration(work.seconds)} for clients gone{of_busy}{long}"


def processes_sentence(report: Report) -> str:
    it = report.processes
    if it.cpu is None and it.peak_resident is None:
        return f"not known: {units.plain(it.found, 120)}"
    each = "" if it.cpu_per_request is None else f", {units.duration(it.cpu_per_request)} a request"
    return f"CPU {units.duration(it.cpu)}{each}; memory at most {units.size(it.peak_resident)}"


def accounting_sentence(report: Report) -> str:
    it = report.accounting
    client = "client adds up" if it.balanced else "client DOES NOT ADD UP"
    if it.target is None:
        return f"{client}; the target shows no metrics to compare"
    wrong = [account.outcome for account in it.target if not account.agrees]
    if wrong:
        return f"{client}; target DISAGREES on {', '.join(wrong)}"
    return f"{client}; target agrees, as far as clients that left can tell"


def lag_sentence(lag: Lag) -> str:
    if not lag.lag.count:
        return "nothing was sent"
    p50, p99, most = (
        units.duration(value) for value in (lag.lag.percentile(0.5), lag.lag.percentile(0.99), lag.lag.most)
    )
    behind = (
        f"behind {units.some(len(lag.behind), 'time')}" if lag.behind else f"never {units.duration(lag.threshold)} late"
    )
    return f"p50 {p50}, p99 {p99}, worst {most}; {behind}"


def backend_sentence(report: Report) -> str:
    it = report.backend
    if it is None:
        return "not known: no simulated backend was named (--backend)"
    word = "agrees" if it.agrees else "DISAGREES"
    left = f", {it.left_running:,} left running" if it.left_running else ""
    return f"{word}; {it.arrivals:,} arrived, {it.served:,} served, {it.cancelled:,} cancelled{left}"
