import random
from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy import affinity
from pipeline.policy.affinity import owner, ranked

SESSIONS = [f"session-{number}" for number in range(100_000)]

sessions = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
shard_sets = st.lists(
    st.integers(0, 200) | st.text("abc-0123456789", min_size=1), min_size=1, max_size=12, unique_by=str
)


def documented_weight(session: str, shard: int | str) -> int:
    """What another program would compute that has read the module's docstring."""
    seed = xxhash.xxh3_64(str(shard).encode()).intdigest()
    return xxhash.xxh3_64(session.encode(), seed=seed).intdigest()


@pytest.mark.parametrize(
    ("session", "shard", "weight"),
    [
        ("conversation-1", 0, 14950727131895854575),
        ("conversation-1", 1, 1087962893934265374),
        ("", 0, 7736381554490693348),
        ("a", 0, 3737866334093592885),
        ("größer", 0, 11005388482243411048),  # as UTF-8
        ("x" * 256, 0, 235190006002761516),
        ("conversation-1", "7", 1134970808486249625),
    ],
)
def test_the_documented_function_gives_the_documented_weights(session: str, shard: int | str, weight: int):
    assert documented_weight(session, shard) == weight


@given(sessions, shard_sets)
def test_the_owner_is_who_weighs_most_by_the_documented_function(session: str, shards: list[int | str]):
    assert owner(session, shards) == max(shards, key=lambda shard: documented_weight(session, shard))


@pytest.mark.parametrize(
    ("session", "order"),
    [
        ("", [2, 3, 4, 0, 1]),
        ("a", [4, 1, 3, 0, 2]),
        ("conversation-1", [3, 0, 2, 4, 1]),
        ("größer", [2, 0, 1, 4, 3]),
        ("x" * 256, [2, 1, 3, 4, 0]),
    ],
)
def test_owners_are_the_same_for_ever(session: str, order: list[int]):
    assert ranked(session, range(5)) == order
    assert owner(session, range(5)) == order[0]


def test_a_number_and_its_text_are_the_same_shard():
    for session in SESSIONS[:100]:
        assert owner(session, ["0", "1", "2"]) == str(owner(session, [0, 1, 2]))


def test_shards_own_equal_shares():
    counts = Counter(owner(session, range(7)) for session in SESSIONS)
    fair = len(SESSIONS) / 7
    assert sorted(counts) == list(range(7))
    assert all(abs(count / fair - 1) < 0.03 for count in counts.values()), counts
    chi_square = sum((count - fair) ** 2 / fair for count in counts.values())
    assert chi_square < 22.46  # six degrees of freedom, one in a thousand


def test_when_a_shard_goes_only_its_sessions_move_and_they_spread_evenly():
    left = [0, 1, 2, 4, 5, 6]
    moved: Counter[int] = Counter()
    for session in SESSIONS[:30_000]:
        before, after = owner(session, range(7)), owner(session, left)
        if before == 3:
            moved[after] += 1
        else:
            assert after == before
    fair = moved.total() / len(left)
    assert moved.total() == pytest.approx(30_000 / 7, rel=0.1)
    assert all(abs(moved[shard] / fair - 1) < 0.15 for shard in left), moved


@given(sessions, shard_sets, st.randoms(use_true_random=False))
def test_the_order_of_the_shards_does_not_matter(session: str, shards: list[int | str], source: random.Random):
    shuffled = source.sample(shards, len(shards))
    assert owner(session, shuffled) == owner(session, shards)
    assert ranked(session, shuffled) == ranked(session, shards)


@given(sessions, shard_sets)
def test_each_rank_is_the_owner_once_those_before_it_have_gone(session: str, shards: list[int | str]):
    order = ranked(session, shards)
    assert sorted(map(str, order)) == sorted(map(str, shards))
    for rank, shard in enumerate(order):
        assert owner(session, order[rank:]) == shard


def test_equal_weights_go_to_the_shard_whose_text_sorts_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(affinity, "xxh3_64_intdigest", lambda *_: 7)
    assert owner("s", [9, 10, 2]) == 10
    assert ranked("s", [9, 10, 2]) == [10, 2, 9]


def test_without_a_shard_there_is_no_owner():
    with pytest.raises(ValueError, match="no shard is live that session 'abc'"):
        owner("abc", [])
    assert ranked("abc", []) == []
