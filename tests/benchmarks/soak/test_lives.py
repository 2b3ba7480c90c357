"""Real processes, looked at from outside."""

import os
import subprocess
import sys

import pytest

from benchmarks.soak.lives import Life, Lives, look

pytestmark = pytest.mark.slow
CHILD = """
import sys, threading
held, files, threads = [], [], []
print("ready", flush=True)
for line in sys.stdin:
    match line.strip():
        case "memory": held.append(bytearray(b"x" * (30 << 20)))
        case "file": files.append(open("/dev/null"))
        case "thread":
            end = threading.Event(); threads.append(end)
            threading.Thread(target=end.wait, daemon=True).start()
    print("done", flush=True)
"""


class Child:
    def __init__(self) -> None:
        command = [sys.executable, "-c", CHILD, "pipeline.process.shard"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def do(self, what: str) -> None:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        with self.process:  # closes its pipes, and waits
            self.process.stdin.close()


@pytest.fixture
def child():
    found = Child()
    yield found
    found.end()


class TestLook:
    def test_sees_memory_descriptors_and_threads(self, child):
        who, before = look(child.process.pid)
        for what in ("memory", "file", "thread"):
            child.do(what)
        same, after = look(child.process.pid)
        assert who == same
        assert after.memory - before.memory == pytest.approx(30, abs=2)
        assert after.descriptors - before.descriptors == 1
        assert after.threads - before.threads == 1
        assert 0 <= before.age <= after.age < 30

    def test_one_that_has_gone_is_none(self, child):
        child.end()
        assert look(child.process.pid) is None

    def test_one_that_nobody_has_waited_for_is_none(self, child):
        child.process.stdin.close()
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert look(child.process.pid) is None


class TestLives:
    def test_tells_roles_and_who_is_left(self, child):
        lives = Lives()
        lives.sample([child.process.pid, os.getpid()], supervisor=os.getpid())
        assert sorted(life.role for life in lives.current) == ["shard", "supervisor"]
        lives.tasks({child.process.pid: 12})
        (shard,) = lives.of("shard")
        assert shard.last("tasks") == 12
        assert len(lives.alive()) == 2
        child.end()
        assert [who.pid for who in lives.alive()] == [os.getpid()]
        lives.sample([child.process.pid, os.getpid()], supervisor=os.getpid())
        assert [life.role for life in lives.current] == ["supervisor"]


def life(born: float, value, seconds: int = 100, measure: str = "memory") -> Life:
    return Life("shard", 1, born, {measure: [(float(age), value(age)) for age in range(seconds)]})


class TestProblems:
    def lives(self, *all_) -> Lives:
        lives = Lives()
        lives.all = dict(enumerate(all_))
        return lives

    def test_none_where_nothing_grows(self):
        lives = self.lives(*(life(60.0 * number, lambda age: 70 + min(age, 20) / 10) for number in range(10)))
        assert list(lives.problems()) == []

    @pytest.mark.parametrize("measure", ["memory", "descriptors", "threads", "tasks"])
    def test_each_measure_that_grows_is_one(self, measure):
        problems = list(self.lives(life(0.0, lambda age: 10 + age * 1.5, measure=measure)).problems())
        assert any(problem.startswith(f"{measure} of the shard process 1 grew") for problem in problems)

    def test_that_later_processes_are_larger_is_one(self):
        lives = self.lives(*(life(60.0 * number, lambda _, n=number: 70 + 2 * n) for number in range(10)))
        (problem,) = lives.problems()
        assert problem.startswith("memory of shard processes of the same age grew by 18 MB")
