"""Which worker serves a request: in proportion to the weights, and without moving sessions that need not move."""

import random
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from pipeline.policy.affinity import owner
from pipeline.policy.choice import by_chance, by_session, replica_seed, scores

SESSIONS = [f"conversation-{number:06x}" for number in range(4000)]
weights = st.dictionaries(
    st.sampled_from(["small", "large", "w1", "w2", "eu/west"]), st.floats(0.001, 1000.0), min_size=1, max_size=5
)


def chosen(shares: dict[str, float]) -> dict[str, str]:
    return {session: by_session(session, shares) for session in SESSIONS}


def assert_in_proportion(counts: Counter[str], shares: dict[str, float], number: int) -> None:
    """Within four standard deviations of a binomial."""
    for worker, weight in shares.items():
        share = weight / sum(shares.values())
        assert abs(counts[worker] - share * number) <= 4 * sqrt(number * share * (1 - share)), worker


@pytest.mark.parametrize(
    "shares",
    [
        {"a": 1.0, "b": 1.0},
        {"a": 9.0, "b": 1.0},
        {"a": 0.05, "b": 0.95},
        {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0},
        {f"w{n}": 1.0 for n in range(20)},
    ],
)
def test_sessions_and_chances_fall_to_workers_in_proportion_to_their_weights(shares):
    assert_in_proportion(Counter(chosen(shares).values()), shares, len(SESSIONS))
    draw = random.Random(7).random
    assert_in_proportion(Counter(by_chance(draw(), shares) for _ in range(4000)), shares, 4000)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 3.0, "c": 1.0}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 0.1, "c": 1.0}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "c": 1.0}),
        ({"a": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}),
    ],
)
def test_a_changed_weight_moves_only_the_sessions_that_it_must(before, after):
    """To the worker that got more, or from the one that got less; as many as the shares differ by."""
    old, new = chosen(before), chosen(after)
    moved = [session for session in SESSIONS if old[session] != new[session]]
    more = after.get("b", 0.0) > before.get("b", 0.0)
    assert {(new if more else old)[session] for session in moved} == {"b"}
    share = [weights.get("b", 0.0) / sum(weights.values()) for weights in (before, after)]
    expected = abs(share[1] - share[0]) * len(SESSIONS)
    assert len(moved) == pytest.approx(expected, abs=4 * sqrt(expected))


def test_back_to_the_old_weights_is_back_to_the_old_workers():
    shares = {"a": 1.0, "b": 1.0}
    before = chosen(shares)
    assert chosen({"a": 1.0}) != before
    assert chosen(dict(shares)) == before


@given(session=st.text(), shares=weights, factor=st.sampled_from([0.5, 4.0]), seed=st.integers())
def test_only_proportions_count_and_no_order(session, shares, factor, seed):
    worker = by_session(session, shares)
    assert worker in shares
    names = list(shares)
    random.Random(seed).shuffle(names)
    assert by_session(session, {name: shares[name] for name in names}) == worker
    scaled = {name: weight * factor for name, weight in shares.items()}
    assert by_session(session, scaled) == worker


@given(session=st.text(), shares=weights, grown=st.floats(1.0, 100.0))
def test_who_is_chosen_stays_chosen_with_more_weight(session, shares, grown):
    worker = by_session(session, shares)
    assert by_session(session, {**shares, worker: shares[worker] * grown}) == worker


@given(chance=st.floats(0.0, 1.0, exclude_max=True), shares=weights)
def test_every_chance_is_somebody(chance, shares):
    assert by_chance(chance, shares) in shares


def test_the_ends_of_chance_are_the_first_and_the_last():
    shares = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert by_chance(0.0, shares) == "a"
    assert by_chance(1.0 - 2**-53, shares) == "c"


def test_a_session_s_worker_is_the_same_in_every_version():
    """As a deployment in mid-upgrade relies on."""
    shares = {"small": 3.0, "large": 1.0}
    found = "".join(by_session(f"conversation-{n}", shares)[0] for n in range(12))
    assert found == "sssslllslsss"


@pytest.mark.parametrize("choose", [lambda: by_session("s", {}), lambda: by_chance(0.5, {})])
def test_of_nobody_none_can_be_chosen(choose):
    with pytest.raises(ValueError, match="no worker"):
        choose()


def test_replicas_are_ranked_the_same_by_every_process_and_version():
    seeds = [replica_seed(name) for name in ("10.0.0.1:8000", "0")]
    assert seeds == [xxh3_64_intdigest(b"replica 10.0.0.1:8000"), xxh3_64_intdigest(b"replica 0")]
    assert scores("conversation-1", seeds) == [xxh3_64_intdigest(b"conversation-1", seed) for seed in seeds]
    assert scores("", []) == []


def test_which_replica_a_session_prefers_says_nothing_of_its_shard():
    """Shard 0 owns half of the sessions; half of these prefer replica 0."""
    seeds = [replica_seed(str(number)) for number in range(2)]
    owned = [session for session in SESSIONS if owner(session, range(2)) == 0]
    first = sum(own[0] > own[1] for own in (scores(session, seeds) for session in owned))
    assert_in_proportion(Counter({"0": first, "1": len(owned) - first}), {"0": 1.0, "1": 1.0}, len(owned))
