import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.schema import ServerSection
from pipeline.process.errors import StartError
from pipeline.process.prepare import address_of, claimed, listening
from tests.process.daemon import alive


class TestPort:
    def test_listens_at_once_so_that_nobody_else_can(self):
        with listening(ServerSection(port=0)) as sock:
            port = sock.getsockname()[1]
            assert address_of(sock) == f"http://127.0.0.1:{port}"
            socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(StartError, match=f"port {port} is in use by another program .*server.port"):
                listening(ServerSection(port=port))

    def test_is_free_again_right_after(self):
        with listening(ServerSection(port=0)) as sock:
            port = sock.getsockname()[1]
            client = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(True)
            accepted, _ = sock.accept()
            accepted.close()  # the server closes first: the connection stays in TIME_WAIT
            client.close()
        listening(ServerSection(port=port)).close()

    def test_a_host_with_both_families_is_served_on_ipv4(self):
        with listening(ServerSection(host="localhost", port=0)) as sock:
            assert sock.family is socket.AF_INET

    def test_ipv6(self):
        with listening(ServerSection(host="::1", port=0)) as sock:
            assert address_of(sock) == f"http://[::1]:{sock.getsockname()[1]}"

    @pytest.mark.parametrize(
        ("host", "says"),
        [
            ("192.0.2.7", "192.0.2.7 is not an address of this machine"),
            ("no such host", "there is no host 'no such host' here"),
            ("x" * 70 + ".invalid", "there is no host"),
        ],
    )
    def test_a_host_that_is_not_ours(self, host, says):
        with pytest.raises(StartError, match=f"^Cannot listen on {host}:0: {says}"):
            listening(ServerSection(host=host, port=0))


class TestDataFolder:
    def test_is_made_for_this_user_only(self, tmp_path):
        folder = tmp_path / "a" / "b"
        with claimed(folder):
            assert folder.stat().st_mode & 0o777 == 0o700

    def test_has_one_owner(self, tmp_path):
        with claimed(tmp_path), pytest.raises(StartError, match=rf"Another Headgate \(pid {os.getpid()}\) is using"):
            claimed(tmp_path).__enter__()
        with claimed(tmp_path):
            pass

    def test_that_cannot_be_written_to(self, tmp_path):
        # Also root cannot write here, unlike to a folder without permissions.
        folder = Path("/proc/self/task") if os.geteuid() == 0 else tmp_path
        tmp_path.chmod(0o500)
        with pytest.raises(StartError, match="Cannot write to the data folder"):
            claimed(folder).__enter__()

    def test_that_is_a_file(self, tmp_path):
        path = tmp_path / "file"
        path.touch()
        with pytest.raises(StartError, match=r"Cannot write to the data folder .*: "):
            claimed(path).__enter__()

    def test_waits_for_the_children_of_an_owner_that_was_killed(self, tmp_path):
        orphan = _orphan_of_a_killed_owner(tmp_path, lives=0.4)
        began = time.monotonic()
        with claimed(tmp_path):
            assert time.monotonic() - began > 0.1
            assert not alive(orphan)


def _orphan_of_a_killed_owner(folder: Path, *, lives: float) -> int:
    """A process that inherited the folder's lock, and whose parent is dead."""
    script = f"""
import os, subprocess, sys
from pathlib import Path
from pipeline.process.prepare import claimed
with claimed(Path({str(folder)!r})) as lock:
    child = subprocess.Popen(["sleep", "{lives}"], pass_fds=[lock])
    print(child.pid, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        orphan = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    return orphan
