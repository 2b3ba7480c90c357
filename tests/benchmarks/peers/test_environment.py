import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from benchmarks.peers.environment import Environment
from benchmarks.peers.gateway import CannotPrepare
from benchmarks.peers.interrupt import Interrupted
from tests.benchmarks.peers.stand_ins import tick

PINS = sorted(Path("benchmarks/peers").glob("*.in"))


def wheel(folder: Path, version: str) -> str:
    """A package of one module, and its line for a requirements file: no network is needed to install it."""
    file = folder / f"tiny_peer-{version}-py3-none-any.whl"
    info = f"tiny_peer-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_peer.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-peer\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"tiny-peer @ {file.as_uri()} --hash=sha256:{digest}\n"


def environment(folder: Path, requirements: str) -> Environment:
    (folder / "tiny-peer.txt").write_text(requirements)
    (folder / "tiny-peer.in").write_text("# said here\ntiny-peer[extra]==1.0\n")
    return Environment("tiny-peer", folder=folder / "environments", requirements=folder)


def installed(folder: Path) -> str:
    (module,) = (folder / "environments").glob("tiny-peer/lib/*/site-packages/tiny_peer.py")
    return module.read_text()


@pytest.mark.slow
def test_installs_once_and_again_when_the_requirements_change(tmp_path: Path) -> None:
    line = wheel(tmp_path, "1.0")
    environment(tmp_path, line).prepare(tick)
    made = (tmp_path / "environments/tiny-peer/pyvenv.cfg").stat()
    assert "1.0" in installed(tmp_path)

    environment(tmp_path, line).prepare(tick)
    assert (tmp_path / "environments/tiny-peer/pyvenv.cfg").stat().st_mtime_ns == made.st_mtime_ns

    again = environment(tmp_path, wheel(tmp_path, "1.1"))
    again.prepare(tick)
    assert "1.1" in installed(tmp_path)
    assert (again.programs / "python").exists()


@pytest.mark.slow
def test_a_package_that_cannot_be_installed_is_an_error_that_says_why_and_is_tried_again(tmp_path: Path) -> None:
    line = wheel(tmp_path, "1.0")
    wrong = environment(tmp_path, line.replace("sha256:", "sha256:" + "0" * 64)[: len(line)] + "\n")
    for _ in range(2):
        with pytest.raises(CannotPrepare, match="tiny-peer could not be installed"):
            wrong.prepare(tick)
    environment(tmp_path, line).prepare(tick)
    assert "1.0" in installed(tmp_path)


@pytest.mark.slow
def test_an_interrupted_installation_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        environment(tmp_path, wheel(tmp_path, "1.0")).prepare(interrupted)
    environment(tmp_path, wheel(tmp_path, "1.0")).prepare(tick)
    assert "1.0" in installed(tmp_path)


def test_the_version_is_the_pinned_one(tmp_path: Path) -> None:
    pinned = environment(tmp_path, "")
    assert pinned.version == "1.0"
    (tmp_path / "tiny-peer.in").write_text("tiny-peer\n")
    with pytest.raises(LookupError, match="pins no tiny-peer"):
        _ = pinned.version


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.stem)
def test_the_locked_files_hold_the_pinned_versions_hashes_and_no_addresses(pin: Path) -> None:
    lock = pin.with_suffix(".txt").read_text()
    version = Environment(pin.stem).version
    assert f"\n{pin.stem}=={version} " in "\n" + lock
    assert version not in {"1.82.7", "1.82.8"}
    assert "://" not in lock
    packages = re.split(r"\n(?=\S)", lock.strip())
    assert len(packages) > 5
    assert all("--hash=sha256:" in package for package in packages)


def test_all_three_peers_are_pinned() -> None:
    assert [pin.stem for pin in PINS] == ["litellm", "tensorzero", "vllm-router"]
