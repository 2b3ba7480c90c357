"""Whatever is done to them, in whatever order: the two journals tell the same."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pipeline.core.errors import HeadgateError
from pipeline.workflow.errors import LeaseLost
from pipeline.workflow.journal import Bundle, Journal, Lease, Rewound, Signalled, StateChanged
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import LEASE_SECONDS, Journals, completed, record, registered

IDS = [f"r{i}" for i in range(3)]
BUNDLES = [Bundle(f"{i}" * 64, msgspec.Raw(b'{"n":%d}' % i)) for i in range(2)]
ids = st.sampled_from(IDS)
shards = st.integers(0, 1)
# Those that mean most to a journal more often than the others.
states = st.sampled_from([*RunState, RunState.WAITING, RunState.WAITING])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
) | st.text("ab", min_size=300, max_size=900)
changes = st.builds(
    StateChanged,
    at=st.integers(1000, 2000).map(float),
    state=states,
    outputs=values,
    error=st.none() | st.dictionaries(st.text(), values, max_size=2),
    wake_at=st.none() | st.integers(1000, 2000).map(float),
)
signals = st.builds(Signalled, at=st.integers(1000, 2000).map(float), event=st.text(max_size=3), payload=values)
entries = st.lists(
    changes
    | signals
    | st.builds(completed, value=values, fields=st.dictionaries(st.text(), values, max_size=2))
    | st.just(Rewound(1500.0, ["draft"])),
    min_size=1,
    max_size=3,
)


class Both(RuleBasedStateMachine):
    """Two journals over a memory, and two over a file: each call is made to one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.kinds = [Journals(kind, Path(self.folder.name)) for kind in ("memory", "sqlite")]
        self.journals = [[self.runner.run(kind.open(shard)) for shard in range(2)] for kind in self.kinds]
        self.leases: list[tuple[int, list[Lease]]] = []

    def teardown(self) -> None:
        for kind in self.kinds:
            self.runner.run(kind.aclose())
        self.runner.close()
        self.folder.cleanup()

    def both(self, shard: int, call: Callable[[Journal, int], Awaitable[Any]]) -> list[Any]:
        results = [self.runner.run(self._told(call, shard, kind)) for kind in range(2)]
        memory, file = (self._comparable(result) for result in results)
        assert memory == file
        return results

    async def _told(self, call: Callable[[Journal, int], Awaitable[Any]], shard: int, kind: int) -> Any:
        try:
            return await call(self.journals[kind][shard], kind)
        except (HeadgateError, LeaseLost) as error:
            return type(error), str(error)

    def _comparable(self, result: Any) -> Any:
        """With shards in holders' places: their tokens differ."""
        data = msgspec.json.decode(msgspec.json.encode(result, enc_hook=str))
        for journals in self.journals:
            for shard, journal in enumerate(journals):
                data = _replaced(data, journal.holder, f"holder {shard}")
        return data

    def _keep(self, shard: int, leases: list[Lease | None]) -> None:
        if all(isinstance(lease, Lease) for lease in leases):
            self.leases.append((shard, leases))

    @rule(
        shard=shards, run_id=ids, state=states, inputs=values, key=st.sampled_from([None, "a", "b"]), take=st.booleans()
    )
    def create(self, shard, run_id, state, inputs, key, take):
        caller, bundle = f"c{len(run_id + state) % 2}", BUNDLES[int(take)]
        run = record(
            run_id, state=state, inputs=inputs, idempotency_key=key, caller=caller, request_digest=state,
            bundle=bundle.digest, workflow=f"w{int(run_id[1:]) % 2}",
        )  # fmt: skip
        results = self.both(shard, lambda journal, _: journal.create(run, bundle, take=take))
        if isinstance(results[0][0], type):
            return
        self._keep(shard, [lease for _, lease in results])

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), what=entries)
    def append(self, data, what):
        shard, leases = data.draw(st.sampled_from(self.leases))
        self.both(shard, lambda journal, kind: journal.append(leases[kind], what))

    @rule(shard=shards, run_id=ids, what=entries)
    def post(self, shard, run_id, what):
        self.both(shard, lambda journal, _: journal.post(run_id, what))

    @rule(shard=shards, run_id=ids)
    def claim(self, shard, run_id):
        self._keep(shard, self.both(shard, lambda journal, _: journal.claim(run_id)))

    @rule(shard=shards, limit=st.integers(1, 4), due=st.integers(1000, 2000))
    def claim_many(self, shard, limit, due):
        def call(journal: Journal, _: int) -> Awaitable[Any]:
            return journal.claim_many(limit, due=float(due), mine=lambda run_id: run_id != "r2")

        memory, file = self.both(shard, call)
        for one, other in zip(memory, file, strict=True):
            self._keep(shard, [one[1], other[1]])

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data):
        shard, leases = data.draw(st.sampled_from(self.leases))
        self.both(shard, lambda journal, kind: journal.release(leases[kind]))

    @rule(shard=shards, seconds=st.sampled_from([1.0, LEASE_SECONDS + 1]))
    def renew_after(self, shard, seconds):
        for kind in self.kinds:
            kind.clock.now += seconds
        self.both(shard, lambda journal, _: journal.renew())
        for asked in range(2):
            self.both(asked, lambda journal, kind: _now(journal.alive(self.journals[kind][0].holder)))

    @rule(shard=shards, before=st.integers(1000, 2000), limit=st.integers(1, 3))
    def expire(self, shard, before, limit):
        # Which of several that ended at one moment go first is left open: all of them, or none.
        self.both(shard, lambda journal, _: journal.expire(float(before), limit=100 * limit))

    @rule(shard=shards, version=st.sampled_from("123"), digest=st.sampled_from(["d1", "d2"]))
    def register(self, shard, version, digest):
        self.both(shard, lambda journal, _: journal.register(registered(version, digest)))
        self.both(shard, lambda journal, _: journal.workflow("greet", None))

    @rule(shard=shards, caller=st.sampled_from([None, "c0", "c1"]), workflow=st.sampled_from([None, "w0"]),
          some=st.lists(states, max_size=2), limit=st.integers(1, 3))  # fmt: skip
    def pages(self, shard, caller, workflow, some, limit):
        async def call(journal: Journal, _: int) -> Any:
            found, after = [], None
            while True:
                page = await journal.runs(caller=caller, workflow=workflow, states=some, limit=limit, after=after)
                found.append(page.runs)
                if page.next is None:
                    return found
                after = page.next

        self.both(shard, call)

    @rule()
    def reopen(self):
        """The first journal of each closes, and another process comes."""
        self.both(0, lambda journal, _: journal.aclose())
        for kind, journals in zip(self.kinds, self.journals, strict=True):
            journals[0] = self.runner.run(kind.open(0))
        self.leases = [(shard, leases) for shard, leases in self.leases if shard]

    @invariant()
    def the_same(self):
        for run_id in IDS:
            self.both(1, lambda journal, _, one=run_id: journal.run(one))
        self.both(1, lambda journal, _: journal.histories(IDS))
        self.both(1, lambda journal, _: journal.next_due())
        self.both(1, lambda journal, _: journal.counts())
        for bundle in BUNDLES:
            self.both(1, lambda journal, _, one=bundle: journal.bundle(one.digest))


async def _now(value: Any) -> Any:
    return value


def _replaced(data: Any, old: str, new: str) -> Any:
    if isinstance(data, str):
        return data.replace(old, new)
    if isinstance(data, list):
        return [_replaced(item, old, new) for item in data]
    if isinstance(data, dict):
        return {_replaced(key, old, new): _replaced(item, old, new) for key, item in data.items()}
    return data


@pytest.mark.slow
def test_the_two_journals_tell_the_same():
    run_state_machine_as_test(
        Both,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
