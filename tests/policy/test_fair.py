"""Who is next and who has to go: classes, then callers by weight, then sessions in turn, then order of arrival."""

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcomes import Priority
from pipeline.policy.fair import FairQueue

NORMAL, LOW, HIGH = Priority.NORMAL, Priority.LOW, Priority.HIGH


def put(queue: FairQueue[str], item: str, *, priority=NORMAL, caller="-", weight=1.0, session="", at=0.0):
    flow = queue.join(priority, caller, weight, session)
    queue.push(flow, (at, item))
    return flow


def drained(queue: FairQueue[str]) -> list[str]:
    out = []
    while (entry := queue.pop()) is not None:
        out.append(entry[1])
    return out


def test_one_session_is_first_in_first_out():
    queue: FairQueue[str] = FairQueue()
    for item in "abc":
        put(queue, item)
    assert len(queue) == 3
    assert drained(queue) == ["a", "b", "c"]
    assert queue.pop() is None


def test_a_higher_class_goes_first():
    queue: FairQueue[str] = FairQueue()
    put(queue, "low", priority=LOW)
    put(queue, "normal")
    put(queue, "critical", priority=Priority.CRITICAL)
    put(queue, "high", priority=HIGH)
    assert drained(queue) == ["critical", "high", "normal", "low"]


def test_sessions_take_turns():
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        put(queue, item, session="a")
    put(queue, "b1", session="b")
    put(queue, "c1", session="c")
    put(queue, "b2", session="b")
    assert drained(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_callers_share_by_weight_whatever_the_number_of_their_sessions():
    queue: FairQueue[str] = FairQueue()
    for number in range(40):
        put(queue, f"one{number}", caller="one", session=str(number))
        put(queue, f"two{number}", caller="two", weight=3.0)
    first = Counter(queue.pop()[1][:3] for _ in range(40))
    assert first == {"two": 30, "one": 10}


def test_a_caller_that_was_away_gets_no_more_than_its_share():
    queue: FairQueue[str] = FairQueue()
    for number in range(20):
        put(queue, f"a{number}", caller="a")
    for _ in range(10):
        queue.pop()
    for number in range(20):
        put(queue, f"b{number}", caller="b")
    assert Counter(queue.pop()[1][0] for _ in range(10)) == {"a": 5, "b": 5}


def test_the_victim_is_the_newest_of_the_session_with_most_work():
    queue: FairQueue[str] = FairQueue()
    put(queue, "a1", session="a", at=1.0)
    put(queue, "b1", session="b", at=2.0)
    put(queue, "b2", session="b", at=3.0)
    assert queue.victim(NORMAL, "-", 1.0, "c", 0.0) == (3.0, "b2")
    assert queue.victim(NORMAL, "-", 1.0, None, 0.0) == (3.0, "b2")
    assert queue.victim(NORMAL, "-", 1.0, "a", 0.0) is None  # it would have two as well
    assert queue.victim(NORMAL, "-", 1.0, "b", 0.0) is None
    assert queue.victim(HIGH, "-", 1.0, "c", 0.0) is None  # nobody waits there


def test_running_work_counts_too():
    queue: FairQueue[str] = FairQueue()
    put(queue, "a1", session="a")
    put(queue, "a2", session="a")
    put(queue, "a3", session="a")
    assert queue.pop() == (0.0, "a1")  # runs
    assert queue.pop() == (0.0, "a2")
    assert queue.victim(NORMAL, "-", 1.0, "b", 0.0) == (0.0, "a3")


def test_the_victim_belongs_to_the_caller_with_most_for_its_weight():
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        put(queue, f"rich{number}", caller="rich", weight=4.0, session="s")
    for number in range(2):
        put(queue, f"poor{number}", caller="poor", session=str(number))
    assert (
        queue.victim(NORMAL, "new", 1.0, "", 0.0) == (0.0, "poor0")
        or queue.victim(NORMAL, "new", 1.0, "", 0.0)[1] == "poor1"
    )
    assert queue.victim(NORMAL, "rich", 4.0, "other", 0.0) == (0.0, "poor0")
    assert queue.victim(NORMAL, "poor", 1.0, "0", 0.0) is None


def test_what_has_ended_leaves_nothing_behind():
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):  # a class that is never served
        item = f"i{number}"
        flow = put(queue, item, priority=LOW, caller=f"c{number}", session=f"s{number}")
        assert queue.remove(flow, item)
        assert not queue.remove(flow, item)
        queue.leave(flow, 0.0, served=False)
    assert not len(queue)
    for each in queue._classes:
        assert not each.active
        assert not each.idle
        assert not any(caller.flows for caller in each.callers.values())


def test_withdraw_takes_out_what_matches():
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "b1", "a2"):
        put(queue, item, session=item[0], at=float(item[1]))
    assert queue.oldest() == 1.0
    assert sorted(queue.withdraw(lambda item: item.startswith("a"))) == ["a1", "a2"]
    assert queue.entries() == [(1.0, "b1")]


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "pop", "remove", "leave"]),
        st.sampled_from(list(Priority)),
        st.sampled_from("ab"),
        st.sampled_from("xyz"),
        st.integers(0, 9),
    ),
    max_size=120,
)


@given(steps)
def test_nothing_is_lost_and_each_session_keeps_its_order(steps):
    queue: FairQueue[int] = FairQueue()
    waiting: dict[tuple, deque[int]] = {}
    running: list = []
    for number, (what, priority, caller, session, pick) in enumerate(steps):
        key = (priority, caller, session)
        if what == "put":
            flow = queue.join(priority, caller, 1.0, session)
            queue.push(flow, (float(number), number))
            waiting.setdefault(key, deque()).append(number)
        elif what == "pop":
            entry = queue.pop()
            classes = [k[0] for k, items in waiting.items() if items]
            assert (entry is None) == (not classes)
            if entry is not None:
                owner = next(
                    k for k, items in waiting.items() if items and items[0] == entry[1]
                )  # first of its session
                assert owner[0] == min(classes)
                waiting[owner].popleft()
                flow = queue.join(*owner[:2], 1.0, owner[2])  # the same object, found again
                queue.leave(flow, 0.0, served=False)
                running.append(flow)
        elif what == "leave" and running:
            queue.leave(running.pop(pick % len(running)), 0.0, served=False)
        elif what == "remove" and waiting.get(key):
            item = waiting[key][pick % len(waiting[key])]
            flow = queue.join(*key[:2], 1.0, key[2])
            queue.leave(flow, 0.0, served=False)
            assert queue.remove(flow, item)
            waiting[key].remove(item)
            queue.leave(flow, 0.0, served=False)
        assert len(queue) == sum(map(len, waiting.values()))
        assert sorted(entry[1] for entry in queue.entries()) == sorted(i for items in waiting.values() for i in items)
    assert sum(1 for _ in iter(queue.pop, None)) == sum(map(len, waiting.values()))


@given(st.lists(st.sampled_from("aabbbcccc"), min_size=1, max_size=60))
def test_between_two_turns_of_a_session_no_other_has_two(order):
    queue: FairQueue[str] = FairQueue()
    for item in order:
        put(queue, item, session=item)
    served = drained(queue)
    left = Counter(order)
    for index, item in enumerate(served):
        left[item] -= 1
        if left[item]:
            until = served.index(item, index + 1)
            assert max(Counter(served[index + 1 : until]).values(), default=0) <= 1
