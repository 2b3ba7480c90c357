"""Who has used what: the tables, what goes into them, and what of them becomes metrics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily

from pipeline.core.access import Caller
from pipeline.core.outcomes import Priority
from pipeline.core.ticket import Ticket
from pipeline.observe.usage import OTHER, Counts, UsageObserver, UsageTable, Who
from pipeline.observe.usage_families import SERIES, families
from workers.base import Usage

names = st.sampled_from(["a", "b", "c", "d"])


def ticket(usage: Usage | None = None, *, worker: str = "w", key: str | None = "alice", **fields: object) -> Ticket:
    made = Ticket("r1", 0.0, lambda _: None)
    made.route, made.worker, made.usage = "r", worker, usage
    made.caller = None if key is None else Caller(key, Priority.NORMAL)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def booked(*tickets: Ticket) -> dict[Who, Counts]:
    table = UsageTable()
    observer = UsageObserver(table)
    for each in tickets:
        if observer.wants(each):
            observer.after_end(each)
    return dict(table.items())


def test_what_the_worker_counted_is_booked_for_key_route_and_worker():
    usage = Usage(100, 20, cached_tokens=60, reasoning_tokens=5)
    assert booked(ticket(usage), ticket(usage), ticket(Usage(1, 2), key=None)) == {
        ("alice", "r", "w"): Counts(2, 200, 40, 120, 10),
        ("-", "r", "w"): Counts(1, 1, 2),
    }


def test_without_a_count_it_is_our_estimate_and_marked():
    assert booked(ticket(prompt_tokens=30, chunks=7)) == {("alice", "r", "w"): Counts(1, 30, 7, 0, 0, 1, 37)}


def test_a_call_that_failed_before_its_answer_used_nothing_that_anybody_counted():
    assert booked(ticket(prompt_tokens=30)) == {("alice", "r", "w"): Counts(1)}


def test_a_request_that_no_worker_was_called_for_is_not_booked():
    assert booked(ticket(Usage(1, 1), worker="-")) == {}


def test_parts_are_never_more_than_the_whole_and_nothing_is_less_than_zero():
    wild = Usage(10, 5, cached_tokens=999, reasoning_tokens=-4)
    assert booked(ticket(wild), ticket(Usage(-3, -1, cached_tokens=7))) == {("alice", "r", "w"): Counts(2, 10, 5, 10)}


@given(st.lists(st.tuples(names, names, names, st.integers(0, 100)), max_size=60), st.integers(1, 12))
def test_nothing_is_lost_in_a_full_table_nor_by_summing_it_up(uses: list[tuple[str, str, str, int]], most: int):
    table = UsageTable(most)
    for key, route, worker, tokens in uses:
        table.of((key, route, worker)).add(Counts(1, tokens))
    assert len(list(table.items())) <= most + 1
    total = table.total()
    assert (total.requests, total.prompt_tokens) == (len(uses), sum(tokens for *_, tokens in uses))
    for by in (["key"], ["route", "worker"], ["key", "route", "worker"]):
        rows = list(table.grouped(by))
        assert sum(counts.prompt_tokens for _, counts in rows) == total.prompt_tokens
        assert [list(names) for names, _ in rows] == [by] * len(rows)
    for fewer in (1, 3):
        series = table.series(fewer)
        assert len(series) <= fewer + 1
        assert sum(counts.prompt_tokens for _, counts in series) == total.prompt_tokens


def test_who_comes_when_the_table_is_full_shares_an_entry():
    table = UsageTable(2)
    for key in "abcd":
        table.of((key, "r", "w")).add(Counts(1))
    table.of(("a", "r", "w")).add(Counts(1))
    assert dict(table.items()) == {
        ("a", "r", "w"): Counts(2),
        ("b", "r", "w"): Counts(1),
        (OTHER, OTHER, OTHER): Counts(2),
    }


def test_what_is_taken_is_gone_and_later_use_is_told_anew():
    table = UsageTable()
    table.of(("a", "r", "w")).add(Counts(1, 5))
    assert table.taken() == [(("a", "r", "w"), Counts(1, 5))]
    assert table.taken() == []
    table.of(("a", "r", "w")).add(Counts(1, 2))
    assert table.taken() == [(("a", "r", "w"), Counts(1, 2))]


@pytest.mark.parametrize("many", [3, 5000])
def test_metrics_are_bounded_complete_and_never_go_back(many: int):
    table = UsageTable()
    last: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for key in range(many):
        table.of((f"key-{key}", "r", "w")).add(Counts(1, 10, 4, 3, 2, 0, 0))
        if key % 1000 and key > 3:
            continue
        now = {(s.name, frozenset(s.labels.items())): s.value for family in families(table) for s in family.samples}
        assert len(now) <= SERIES
        assert all(now[series] >= value for series, value in last.items())
        last = now
    tokens, requests = families(table)
    assert isinstance(tokens, CounterMetricFamily)
    assert (tokens.name, requests.name) == ("headgate_usage_tokens", "headgate_usage_requests")
    assert sum(s.value for s in requests.samples) == many
    assert sum(s.value for s in tokens.samples if s.labels["type"] == "prompt") == 10 * many
    assert sum(s.value for s in tokens.samples if s.labels["type"] == "reasoning") == 2 * many
