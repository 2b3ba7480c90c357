"""What is said of the machine and the code."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.load.environment import ROOT, _quotas, commit, environment, usable_cores


def test_it_names_what_runs():
    found = environment()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.started)
    assert found.headgate
    assert {"aiohttp", "msgspec", "uvloop", "httptools"} == set(found.libraries)
    assert found.system.startswith("Linux ")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.processor
    assert found.commit == commit(ROOT)


def test_cores_that_may_not_be_used_are_no_cores():
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("this machine has one core")
    try:
        os.sched_setaffinity(0, {min(allowed)})
        found = environment()
    finally:
        os.sched_setaffinity(0, allowed)
    assert found.cores == 1
    assert f"(1 of {os.cpu_count()} cores usable)" in found.processor
    assert usable_cores() == len(allowed)


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),
        ("0::/\n", {"cpu.max": "50000 100000"}, [0.5]),
        (
            "2:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "200000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            [2.0],
        ),
        ("1:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, []),
        ("1:memory:/x\n", {}, []),
    ],
)
def test_a_control_groups_quota_is_read(tmp_path: Path, membership: str, files: dict[str, str], quotas: list[float]):
    (tmp_path / "cgroup").write_text(membership)
    mount = tmp_path / "mount"
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    assert _quotas(tmp_path / "cgroup", mount) == quotas
    assert _quotas(tmp_path / "none", mount) == []


@pytest.mark.slow
def test_the_commit_is_the_checkouts_own(tmp_path: Path):
    assert commit(tmp_path) == ""
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    clean = commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{10}", clean)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    assert commit(tmp_path) == f"{clean}-dirty"
    (tmp_path / "within").mkdir()
    assert commit(tmp_path / "within") == ""
