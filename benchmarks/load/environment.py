"""What a run's figures depend on besides the target."""

import contextlib
import math
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

from benchmarks.report.model import Environment

LIBRARIES = ("aiohttp", "httptools", "msgspec", "uvloop")
ROOT = Path(__file__).parents[2]


def environment() -> Environment:
    """Of the machine that the generator runs on. `cores` are those that it may use; where the machine has more,
    `processor` says so."""
    cores = usable_cores()
    whole = max(math.floor(cores), 1)
    processor, all_cores = _processor(), os.cpu_count() or whole
    if cores < all_cores:
        processor = f"{processor} ({cores:g} of {all_cores} cores usable)"
    return Environment(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        headgate=_version("headgate"),
        commit=commit(ROOT),
        python=platform.python_version(),
        libraries={name: version for name in LIBRARIES if (version := _version(name))},
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cores=whole,
        processor=processor,
    )


def usable_cores() -> float:
    """By the process's CPU affinity and its control group's quota."""
    return min([float(len(os.sched_getaffinity(0))), *_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def commit(root: Path) -> str:
    """The checkout's commit, with `-dirty` where files differ from it; empty where `root` is no checkout."""
    if not (root / ".git").exists():
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()
    return ""


def _version(package: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Processor", "cpu model"):
                return value.strip()
    return platform.processor() or "unknown"


def _quotas(membership: Path, mount: Path) -> list[float]:
    """In cores, of the process's control groups and all groups above them (cgroup v2 `cpu.max`, v1 `cpu.cfs_*`)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, group = line.split(":", 2)
        if number == "0":
            found += [_v2(folder) for folder in _above(mount, group)]
        elif "cpu" in controllers.split(","):
            found += [_v1(folder) for folder in _above(mount / controllers, group)]
            found += [_v1(folder) for folder in _above(mount / "cpu", group)]
    return [quota for quota in found if quota is not None]


def _above(mount: Path, group: str) -> list[Path]:
    """The group's folder and those above it. In a container, the mount itself is the group."""
    folder = mount / group.strip("/")
    return [folder, *(each for each in folder.parents if each.is_relative_to(mount))]


def _v2(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _v1(folder: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    return None
