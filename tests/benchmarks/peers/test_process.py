import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.peers.process import Server
from tests.benchmarks.peers.stand_ins import alive, until

pytestmark = pytest.mark.slow

FAMILY = """
import os, signal, subprocess, sys
sleep = "import signal, sys; print('up', flush=True); signal.pause()"
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
children = [
    subprocess.Popen([sys.executable, "-c", sleep]),
    subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True),
    subprocess.Popen([sys.executable, "-c", {deaf}]),
]
print("pids", *[child.pid for child in children], flush=True)
signal.pause()
"""


def family(folder: Path, deaf: str = "sleep") -> tuple[Server, list[int]]:
    """A process with three children, one of them in a session of its own."""
    server = Server([sys.executable, "-c", FAMILY.format(deaf=deaf)], os.environ, folder / "log")
    until(lambda: server.log.read_text().count("up") == 3 and len(_children(server)) == 3)
    return server, [server.pid, *_children(server)]


def _children(server: Server) -> list[int]:
    """As the log tells so far: a line may be there in part."""
    lines = server.log.read_text().splitlines(keepends=True)
    line = next((line for line in lines if line.startswith("pids") and line.endswith("\n")), "")
    return [int(pid) for pid in line.split()[1:]]


def test_stop_ends_children_too_even_in_sessions_of_their_own(tmp_path: Path) -> None:
    server, pids = family(tmp_path)
    assert sorted(process.pid for process in server.members()) == sorted(pids)

    server.stop()

    assert not any(map(alive, pids))
    assert server.status == -signal.SIGTERM
    assert server.members() == []


def test_one_that_does_not_hear_is_killed(tmp_path: Path) -> None:
    server, pids = family(tmp_path, deaf="deaf")

    server.stop(grace=0.5)

    assert not any(map(alive, pids))


def test_what_a_dead_process_left_behind_is_ended(tmp_path: Path) -> None:
    server, pids = family(tmp_path)
    server.members()
    server.kill()
    until(lambda: server.status is not None)
    assert all(map(alive, pids[1:]))

    server.stop()

    assert not any(map(alive, pids))
    assert server.status == -signal.SIGKILL


def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    server = Server([sys.executable, "-c", "print('x' * 70_000); print('one\\ntwo')"], os.environ, tmp_path / "log")
    until(lambda: server.status is not None)
    assert server.last_lines(2) == "one\ntwo"
    server.stop()
    assert server.status == 0
