"""Slots, counts and the log of a running backend, over its control interface."""

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

import pytest

from benchmarks.service import Service, fails
from tests.benchmarks.backends import LONG, RawClient, Simulated

pytestmark = pytest.mark.slow

OUTCOMES = ("served", "cancelled", "failed", "refused")


def balanced(state: dict[str, Any]) -> bool:
    counts = state["counts"]
    return counts["arrivals"] == sum(counts[name] for name in OUTCOMES) + state["in_flight"] + state["waiting"]


@pytest.mark.parametrize("body", [{"slots": -1, "cancel": 3, "slotz": 2, "distribution": "uniform"}])
async def test_bad_settings_change_nothing_and_are_all_named(backend: Simulated, body: dict[str, Any]):
    async with backend.session.patch(f"{backend.url}/sim", json=body) as answer:
        told = await answer.json()
    assert answer.status == 400
    assert [problem["field"] for problem in told["problems"]] == ["slots", "cancel", "slotz"]
    assert all(field in told["error"]["message"] for field in ("slots", "cancel", "slotz"))
    assert (await backend.get())["service"]["distribution"] == "constant"
    async with backend.session.patch(f"{backend.url}/sim", data=b"[1]") as answer:
        assert answer.status == 400


# Slots and the line.


async def test_slots_shrink_and_grow_under_requests(backend: Simulated):
    await backend.set(slots=0, **LONG)
    clients = [await RawClient.ask(backend.port, f"#0000000a.{number}") for number in range(6)]
    await backend.busy(0, 6)
    await backend.set(slots=2)
    await backend.busy(2, 4)
    await backend.set(slots=4)
    await backend.busy(4, 2)
    await backend.set(slots=1, first_token_ms=0)
    await backend.busy(4, 2)  # those under way go on as they began
    working = [row[0] for row in await backend.rows("0000000a") if row[2] is not None]
    for number in working[:3]:
        await clients[number].drop()
    await backend.busy(1, 2)
    await clients[working[3]].drop()
    waited = [client for number, client in enumerate(clients) if number not in working]
    assert [await client.status() for client in waited] == [200, 200]
    state = await backend.busy(0)
    assert (state["counts"]["cancelled"], state["counts"]["served"]) == (4, 2)
    for client in waited:
        await client.drop()


async def test_work_stops_when_its_client_leaves(backend: Simulated):
    await backend.set(slots=1, **LONG)
    working, waiting = [await RawClient.ask(backend.port, f"#0000000b.{number}") for number in range(2)]
    await backend.busy(1, 1)
    (running,) = [row[0] for row in await backend.rows("0000000b") if row[2] is not None]
    first, second = (working, waiting) if running == 0 else (waiting, working)
    await second.drop()
    await backend.busy(1, 0)
    await first.drop()
    state = await backend.busy(0)
    counts = state["counts"]
    assert (counts["cancelled"], counts["cancelled_waiting"]) == (2, 1)
    assert 0 < counts["busy_seconds"] < 5
    assert counts["tokens"] == 0


async def test_work_for_nobody_is_carried_to_its_end(backend: Simulated):
    await backend.set(slots=1, first_token_ms=200, cancel=False)
    first = await RawClient.ask(backend.port, "#0000000c.0")
    await backend.busy(1)
    second = await RawClient.ask(backend.port, "#0000000c.1", stream=True)
    await backend.busy(1, 1)
    await first.drop()
    await second.drop()
    answer = await backend.ask("#0000000c.2")
    assert answer.status == 200
    rows = await backend.rows("0000000c")
    assert [row[-1] for row in rows] == ["cancelled", "cancelled", "served"]
    assert [row[4] for row in rows] == pytest.approx([0.2] * 3, abs=0.01)
    assert rows[2][2] - rows[0][2] == pytest.approx(0.4, abs=0.05)
    counts = (await backend.get())["counts"]
    assert (counts["cancelled"], counts["cancelled_waiting"], counts["tokens"]) == (2, 0, 48)


async def test_everything_is_counted_once(backend: Simulated):
    """Clients that stay and that leave at any moment, failures, a line that is full, streams and not."""
    await backend.set(slots=3, first_token_ms=20, tokens_per_second=400, queue=20, failure_rate=0.3)
    random = Random(5)
    seen: Counter[int] = Counter()

    async def play(number: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.5))
        fields = {"stream": True} if number % 2 else {}
        client = await RawClient.ask(backend.port, f"#0000000d.{number} hello", **fields)
        try:
            if number % 3:
                status = await client.status()
                seen[status] += 1
                if status == 200 and number % 3 == 1:
                    await client.reader.readuntil(b'"stop"')
            else:
                await asyncio.sleep(random.uniform(0, 0.05))
        finally:
            await client.drop()

    await asyncio.gather(*(play(number) for number in range(120)))
    state = await backend.until(lambda state: state["in_flight"] + state["waiting"] == 0)
    counts = state["counts"]
    assert balanced(state)
    run = await backend.get("/sim/runs/0000000d")
    assert run["counts"] == counts
    assert Counter(row[-1] for row in run["rows"]) == {name: counts[name] for name in OUTCOMES if counts[name]}
    assert all(counts[name] for name in OUTCOMES)
    assert counts["refused"] >= seen[503]
    assert counts["failed"] >= seen[500]
    assert {row[0] for row in run["rows"] if row[-1] == "failed"} <= {
        number for number in range(120) if fails(Service(failure_rate=0.3), number)
    }
    assert sum(row[4] for row in run["rows"]) == pytest.approx(counts["busy_seconds"])


# The log.


async def test_rows_are_joined_by_the_mark_in_the_prompt(backend: Simulated):
    await backend.set(slots=1, first_token_ms=30)
    before = time.time()
    texts = [f"#deadbeef.{number} words" for number in (7, 9)]
    await asyncio.gather(backend.ask(f"Rules first.\n{texts[0]}"), backend.ask(texts[1]))
    await backend.ask("no mark")
    after = time.time()
    run = await backend.get("/sim/runs/deadbeef")
    assert {row[0] for row in run["rows"]} == {7, 9}
    assert run["left_out"] == 0
    for _, arrived, started, ended, held, outcome in run["rows"]:
        assert before - 0.01 <= arrived <= started < ended <= after + 0.01
        assert held == pytest.approx(0.03, abs=1e-3)
        assert outcome == "served"
    first, second = sorted(run["rows"], key=lambda row: row[2])
    assert second[2] == pytest.approx(first[3], abs=1e-3)
    assert len(await backend.rows("")) == 1
    assert await backend.rows("00000000") == []


async def test_a_reset_forgets_all_but_those_under_way(backend: Simulated):
    await backend.set(first_token_ms=0)
    await backend.ask("#0000000e.1")
    await backend.set(**LONG)
    client = await RawClient.ask(backend.port, "#0000000e.2")
    await backend.busy(1)
    async with backend.session.post(f"{backend.url}/sim/reset") as answer:
        state = await answer.json()
    assert state["counts"]["arrivals"] == 1
    assert [row[0] for row in await backend.rows("0000000e")] == [2]
    await client.drop()
    assert balanced(await backend.busy(0))
