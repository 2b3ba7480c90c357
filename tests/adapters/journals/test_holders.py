from pathlib import Path

from pipeline.adapters.journals.holders import Holders, new_token
from pipeline.adapters.journals.turns import Turn


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_unlike_all_others():
    tokens = {new_token(3) for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("3:") for token in tokens)


def test_holders_see_each_other_live_lapse_and_leave(tmp_path: Path):
    clock = Clock()
    one, two = (Holders(tmp_path / "h", new_token(i), 10.0, clock) for i in range(2))
    assert two.others() == []
    assert not one.alive(one.token)
    one.renew()
    two.renew()
    assert (one.others(), two.others()) == ([two.token], [one.token])
    clock.now += 10.5
    two.renew()
    assert not two.alive(one.token)
    assert one.alive(two.token)
    assert one.dead([two.token, "0:1:dead"]) == ["0:1:dead"]
    one.renew()
    assert two.alive(one.token)
    one.leave()
    assert not two.alive(one.token)
    assert [path.name for path in (tmp_path / "h").iterdir()] == [two.token]
    two.leave()


def test_what_a_dead_holder_left_is_removed(tmp_path: Path):
    holders = Holders(tmp_path, new_token(0), 10.0, Clock())
    left = tmp_path / "1:2:abcd"
    left.touch()
    assert not holders.alive(left.name)
    assert not left.exists()
    (tmp_path / "1:2:efgh").symlink_to("/etc/passwd")
    assert holders.alive("1:2:efgh")  # it cannot be told
    (tmp_path / "turn").touch()
    assert holders.others() == ["1:2:efgh"]
    assert (tmp_path / "turn").exists()


def test_nobody_has_two_turns_while_somebody_waits(tmp_path: Path):
    one, two, three = (Turn(tmp_path / "h") for _ in range(3))
    for turn in (one, two, three):
        turn.open()
    assert one.take()
    assert not two.take()
    assert not three.take()
    one.give()
    assert not one.take()  # the other is next
    assert two.take()
    two.give()
    assert three.take()
    three.close()  # as when its process dies
    assert one.take()
    one.give()
    assert two.take()
    one.close()
    two.close()


def test_who_gives_up_waiting_holds_up_nobody(tmp_path: Path):
    one, two, three = (Turn(tmp_path) for _ in range(3))
    for turn in (one, two, three):
        turn.open()
    assert one.take()
    assert not two.take()
    two.give()
    one.give()
    assert three.take()
    for turn in (one, two, three):
        turn.close()
