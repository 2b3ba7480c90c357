"""Who gets a place when there are not enough."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.workflow.places import Places, Share, Ticket


class Asker:
    """Asks for places and notes in which order they are had."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.had: list[str] = []
        self.held: list[Ticket] = []

    def ask(self, share: Share, kind: str, name: str) -> Ticket:
        def granted() -> None:
            self.had.append(name)
            self.held.append(ticket)

        ticket = Ticket(share, kind, granted)
        self.places.ask(ticket)
        return ticket

    def give(self) -> None:
        self.places.release(self.held.pop(0))


def test_runs_take_turns_and_in_a_run_the_first_is_the_first():
    asker = Asker(Places(1, {}))
    one, two = Share(10), Share(10)
    for number in range(3):
        asker.ask(one, "llm", f"one{number}")
    for number in range(2):
        asker.ask(two, "llm", f"two{number}")
    for _ in range(5):
        asker.give()
    assert asker.had == ["one0", "one1", "two0", "one2", "two1"]
    assert asker.places.in_use == asker.places.waiting == 0


def test_a_type_that_is_full_keeps_nobody_of_another_type_waiting():
    asker = Asker(Places(10, {"llm": 1}))
    share = Share(10)
    for kind, name in (("llm", "a"), ("llm", "b"), ("action", "c")):
        asker.ask(share, kind, name)
    assert asker.had == ["a", "c"]
    asker.give()
    assert asker.had == ["a", "c", "b"]


def test_a_run_at_its_limit_keeps_no_other_run_waiting():
    asker = Asker(Places(10, {}))
    one, two = Share(1), Share(1)
    for share, name in ((one, "a"), (one, "b"), (two, "c")):
        asker.ask(share, "llm", name)
    assert asker.had == ["a", "c"]
    asker.give()
    assert asker.had == ["a", "c", "b"]


def test_who_gives_up_is_passed_over():
    asker = Asker(Places(1, {}))
    share = Share(10)
    asker.ask(share, "llm", "a")
    withdrawn = asker.ask(share, "llm", "b")
    asker.ask(share, "llm", "c")
    asker.places.release(withdrawn)
    asker.places.release(withdrawn)
    assert asker.places.waiting == 1
    asker.give()
    assert asker.had == ["a", "c"]


@given(
    st.integers(1, 4), st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3)), st.integers(0, 2**32),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
)  # fmt: skip
def test_no_limit_is_passed_and_no_place_is_left_empty_while_somebody_could_have_it(most, limits, seed, shares):
    chance = random.Random(seed)
    asker = Asker(Places(most, limits))
    runs = [Share(limit) for limit in shares]
    asked: list[Ticket] = []
    for number in range(80):
        if chance.random() < 0.5:
            asked.append(asker.ask(chance.choice(runs), chance.choice("xyz"), str(number)))
        elif asker.held and chance.random() < 0.8:
            asker.places.release(asker.held.pop(chance.randrange(len(asker.held))))
        elif asked:
            ticket = chance.choice(asked)
            asker.held = [one for one in asker.held if one is not ticket]
            asker.places.release(ticket)
        _check(asker, asked, most, limits)


def _check(asker: Asker, asked: list[Ticket], most: int, limits: dict[str, int]) -> None:
    held = [ticket for ticket in asked if ticket.taken]
    waiting = [ticket for ticket in asked if ticket.granted is not None and not ticket.taken]
    assert len(held) == asker.places.in_use <= most
    assert len(waiting) == asker.places.waiting
    for ticket in waiting:
        used = sum(one.kind == ticket.kind for one in held)
        assert len(held) == most or used == limits.get(ticket.kind, most) or ticket.share.in_use == ticket.share.limit
    for kind, limit in limits.items():
        assert sum(one.kind == kind for one in held) <= limit
