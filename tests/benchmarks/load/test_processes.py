"""Finding and watching processes: real ones, that listen, have children, burn CPU and end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from benchmarks.load.processes import SAMPLES, Found, NoProcess, Watch, family, find, merged
from benchmarks.report.model import Sample
from tests.process.daemon import ROOT

# Binds a port, hands the socket on to a child, which starts a grandchild without it; each says its pid.
SERVER = """
import socket, subprocess, sys
CHILD = '''
import subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(grandchild.pid, flush=True)
sys.stdin.read()
grandchild.stdin.close(); grandchild.wait()
'''
sock = socket.create_server(("127.0.0.1", 0))
sock.set_inheritable(True)
child = subprocess.Popen(
    [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False, text=True
)
grandchild = child.stdout.readline().strip()
import os
print(sock.getsockname()[1], os.getpid(), child.pid, grandchild, flush=True)
sys.stdin.read()
child.stdin.close(); child.wait()
"""

# For each line on stdin, uses as many seconds of CPU as it says, in a child that ends after, or itself; then answers.
BURNER = """
import subprocess, sys, time
BURN = "import sys, time\\nwhile time.process_time() < float(sys.argv[1]): pass\\nprint(flush=True); sys.stdin.read()"
for line in sys.stdin:
    where, seconds = line.split()
    if where == "end":
        child.stdin.close(); child.wait()
    elif where == "child":
        child = subprocess.Popen(
            [sys.executable, "-c", BURN, seconds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        child.stdout.readline()
    else:
        until = time.process_time() + float(seconds)
        while time.process_time() < until: pass
    print(flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that end when their stdin does."""
    with ExitStack() as stack:

        def started(*command: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            stack.enter_context(process)  # closes the pipes and waits
            return process

        yield started


def line(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def burn(process: "subprocess.Popen[str]", where: str, seconds: float = 0.0) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{where} {seconds}\n")
    process.stdin.flush()
    line(process)


def burner(start: Start) -> "subprocess.Popen[str]":
    process = start(sys.executable, "-c", BURNER)
    burn(process, "self")  # it has started
    return process


@pytest.mark.slow
def test_all_that_hold_the_socket_are_found_with_their_descendants_but_not_the_shell(start: Start):
    shell = start("sh", "-c", '"$0" -c "$1"; true', sys.executable, SERVER)
    port, *pids = map(int, line(shell))
    assert shell.pid not in pids
    for host in ("127.0.0.1", "localhost"):
        found = find(f"http://{host}:{port}/v1")
        assert found.how == "port"
        assert sorted(found.pids) == sorted(pids)
    assert find(f"http://127.0.0.1:{port}/v1", pid=pids[1]) == Found("pid", pids[1:])
    assert set(family([shell.pid])) == {shell.pid, *pids}
    assert os.getpid() not in family([os.getpid()])


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_another_users_listener_is_not_taken_for_nobody(start: Start):
    server = start(sys.executable, "-c", SERVER)
    port = int(line(server)[0])
    # What is imported comes from where only root may look, perhaps: so it is imported before.
    script = (
        "import os, sys\nfrom benchmarks.load.processes import find\nimport encodings.idna\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\nprint(find(sys.argv[1]).how)"
    )
    other = start(sys.executable, "-c", script, f"http://127.0.0.1:{port}/v1")
    assert " ".join(line(other)) == "not permitted to see who listens there"


def test_why_nothing_was_found_is_said():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert find(f"http://127.0.0.1:{port}/v1") == Found("the load generator itself listens there", [])
        # Who listens on one address does not serve another.
        assert find(f"http://127.0.0.2:{port}/v1") == Found("nobody listens there", [])
    assert find(f"http://127.0.0.1:{port}/v1") == Found("nobody listens there", [])
    assert find("http://192.0.2.1/v1") == Found("not on this machine", [])
    assert find("http://no.such.host.invalid/v1") == Found("its host's name has no address", [])


@pytest.mark.slow
def test_a_named_process_must_be_there_and_not_be_the_generator(start: Start):
    process = start(sys.executable, "-c", "pass")
    process.wait()
    with pytest.raises(NoProcess, match=f"process {process.pid} is not there") as gone:
        find("http://127.0.0.1:1/v1", pid=process.pid)
    assert gone.value.pid == process.pid
    with pytest.raises(NoProcess, match="is the load generator itself"):
        find("http://127.0.0.1:1/v1", pid=os.getpid())
    for number in (0, -1):
        with pytest.raises(NoProcess, match="is not there"):
            find("http://127.0.0.1:1/v1", pid=number)


@pytest.mark.slow
def test_cpu_is_counted_from_the_start_and_that_of_a_child_which_ended_is_kept(start: Start):
    process = burner(start)
    burn(process, "self", 0.3)  # before the watch begins
    watch = Watch(find("http://127.0.0.1:1/v1", pid=process.pid), interval=0.01)
    burn(process, "self", 0.2)
    burn(process, "child", 0.25)
    watch.sample()
    burn(process, "end")  # the child
    watch.sample()
    result = watch.result(requests=100)
    assert result.found == "pid"
    assert process.pid in result.pids
    assert len(result.pids) == 2
    assert result.cpu is not None
    assert 0.44 < result.cpu < 0.7
    assert result.cpu_per_request == result.cpu / 100
    assert result.samples[0].processes == 2
    assert result.samples[-1].processes == 1
    assert result.peak_resident is not None
    assert result.peak_resident >= max(sample.resident for sample in result.samples) > 2**20
    spent, before = 0.0, 0.0
    for sample in result.samples:
        spent += sample.cores * (sample.at - before)
        before = sample.at
    assert spent == pytest.approx(result.cpu, abs=0.01)


@pytest.mark.slow
def test_a_target_that_ends_leaves_its_figures(start: Start):
    process = burner(start)
    watch = Watch(find("http://127.0.0.1:1/v1", pid=process.pid), interval=1e-6)
    burn(process, "self", 0.1)
    watch.sample()
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = watch.result(requests=0)
    assert result.cpu is not None
    assert result.cpu > 0.09
    assert result.cpu_per_request is None
    assert result.samples[-1].processes == 0
    assert result.samples[-1].resident == 0


def test_without_processes_there_are_no_figures():
    watch = Watch(Found("not on this machine", []))
    result = watch.result(requests=10)
    assert (result.found, result.pids, result.samples) == ("not on this machine", [], [])
    assert result.cpu is result.cpu_per_request is result.peak_resident is None


async def test_with_nothing_to_watch_running_ends_at_once():
    await asyncio.wait_for(Watch(Found("not on this machine", [])).run(), 1)


@pytest.mark.slow
async def test_it_samples_until_it_is_stopped_and_costs_the_event_loop_little(start: Start):
    process = burner(start)
    watch = Watch(find("http://127.0.0.1:1/v1", pid=process.pid), interval=0.02)
    before = time.thread_time()
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(10):
        while len(watch.result(0).samples) < 10:
            await asyncio.sleep(0.02)
    running.cancel()
    assert (await asyncio.gather(running, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    # Of this thread, which also asks for the result each time: less than 2 ms a sample.
    assert time.thread_time() - before < 10 * 0.004
    times = [sample.at for sample in watch.result(0).samples]
    assert times == sorted(times)


def test_samples_stay_few():
    seconds = count()
    watch = Watch(Found("pid", [os.getpid()]), clock=lambda: float(next(seconds)))
    for _ in range(SAMPLES * 2):
        watch.sample()
    samples = watch.result(0).samples
    assert SAMPLES / 2 <= len(samples) <= SAMPLES
    assert samples[0].at >= 2.0
    assert samples[-1].at > SAMPLES * 2 - 2


def test_merged_neighbours_keep_the_mean_cores_and_the_peaks():
    samples = [
        Sample(at=1.0, cores=1.0, resident=10, processes=2, by_pid={1: 6, 2: 4}),
        Sample(at=4.0, cores=0.0, resident=30, processes=1, by_pid={1: 5, 3: 25}),
        Sample(at=5.0, cores=0.5, resident=20, processes=3),
        Sample(at=6.0, cores=1.5, resident=10, processes=1),
        Sample(at=7.0, cores=0.7, resident=5, processes=1),
    ]
    first, second, third = merged(samples)
    assert (first.at, first.cores, first.resident, first.processes) == (4.0, 0.25, 30, 2)
    assert first.by_pid == {1: 6, 2: 4, 3: 25}
    assert (second.at, second.cores, second.resident, second.processes) == (6.0, 1.0, 20, 3)
    assert third == samples[-1]
