"""Files in a real folder: whole or not at all, within it, and each append once, through crashes too."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.outside import folder as folders
from pipeline.adapters.outside.files import NOTES, Files, Pending
from pipeline.workflow.errors import StepFailed


def write(root: Path, path: str, content: bytes = b"x", *, append: bool = False, key: str = "k") -> str:
    return Files(root).write(path, content, append=append, key=key)


def kind(call: Callable[[], object]) -> str:
    with pytest.raises(StepFailed) as caught:
        call()
    return caught.value.kind


def test_a_file_and_the_folders_above_it(tmp_path: Path):
    root = tmp_path / "new" / "folder"
    assert write(root, "a/b/c.txt", b"one") == str(root / "a/b/c.txt")
    write(root, "a/b/c.txt", b"two")
    assert (root / "a/b/c.txt").read_bytes() == b"two"
    assert {entry.name for entry in root.iterdir()} == {"a", NOTES}
    assert [entry.name for entry in (root / "a/b").iterdir()] == ["c.txt"]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "",
        "a/",
        "a\0b",
        "/".join("a" * 17),
        "x" * 300,
        "\u00e9" * 150,
        f"{NOTES}/lock",
        ".headgate-0123",
    ],
)
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str):
    assert kind(lambda: write(tmp_path / "in", path)) == "not_allowed"
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def test_links_lead_nowhere(tmp_path: Path):
    root, other = tmp_path / "in", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (other / "secret").write_text("s")
    (root / "folder").symlink_to(other)
    (root / "file").symlink_to(other / "secret")
    (root / "up").symlink_to("..")
    assert kind(lambda: write(root, "folder/x")) == "not_allowed"
    assert kind(lambda: write(root, "up/x")) == "not_allowed"
    assert kind(lambda: write(root, "file", append=True)) == "not_allowed"
    write(root, "file", b"mine")  # takes the link's place
    assert (other / "secret").read_text() == "s"
    assert (root / "file").read_text() == "mine"
    assert not (root / "file").is_symlink()
    assert [entry.name for entry in other.iterdir()] == ["secret"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert write(tmp_path / "link", "x") == str(tmp_path / "real/x")


def test_what_is_no_file(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert kind(lambda: write(tmp_path, "folder")) == "file_failed"
    assert kind(lambda: write(tmp_path, "folder", append=True)) == "file_failed"
    assert kind(lambda: write(tmp_path, "pipe", append=True)) == "file_failed"
    write(tmp_path, "file")
    assert kind(lambda: write(tmp_path, "file/below")) == "not_allowed"


def test_each_append_once(tmp_path: Path):
    for key in ("a", "b", "a", "b", "c"):
        write(tmp_path, "log", key.encode(), append=True, key=key)
    assert (tmp_path / "log").read_bytes() == b"abc"
    write(tmp_path, "other", b"x", append=True, key="a")  # of another file
    assert (tmp_path / "other").read_bytes() == b"x"
    (tmp_path / "log").unlink()  # somebody took it away
    write(tmp_path, "log", b"a", append=True, key="a")
    assert not (tmp_path / "log").exists()
    write(tmp_path, "log", b"d", append=True, key="d")
    assert (tmp_path / "log").read_bytes() == b"d"


def test_at_the_same_time(tmp_path: Path):
    def several(number: int) -> None:
        for turn in range(10):
            for key in (f"{number}-{turn}", f"common-{turn}"):
                write(tmp_path, "log", f"{key}\n".encode(), append=True, key=key)

    threads = [threading.Thread(target=several, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 50


def noted(root: Path, pending: Pending) -> None:
    """As a crash leaves it."""
    names = [entry.name for entry in (root / NOTES).iterdir() if entry.suffix == ".keys"]
    (root / NOTES / names[0].replace(".keys", ".pending")).write_bytes(msgspec.msgpack.encode(pending))


@given(done=st.integers(0, 6), same=st.booleans())
def test_an_append_that_a_crash_broke_off_is_finished_by_the_next(
    tmp_path_factory: pytest.TempPathFactory, done: int, same: bool
):
    root = tmp_path_factory.mktemp("files")
    write(root, "log", b"first\n", append=True, key="1")
    noted(root, Pending("2", 6, b"second"))
    with (root / "log").open("ab") as file:
        file.write(b"second"[:done])
    write(root, "log", b"second" if same else b"third", append=True, key="2" if same else "3")
    write(root, "log", b"second", append=True, key="2")
    assert (root / "log").read_bytes() == b"first\nsecond" + (b"" if same else b"third")
    assert not list((root / NOTES).glob("*.pending"))


def test_what_somebody_else_changed_is_left_alone(tmp_path: Path):
    write(tmp_path, "log", b"first\n", append=True, key="1")
    noted(tmp_path, Pending("2", 6, b"second"))
    (tmp_path / "log").write_bytes(b"first\nsome other lines\n")
    write(tmp_path, "log", b"third", append=True, key="3")
    assert (tmp_path / "log").read_bytes() == b"first\nsome other lines\nthird"


def test_only_the_last_keys_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.adapters.outside.files._REMEMBERED", 33 * 8)
    for number in range(30):
        write(tmp_path, "log", b".", append=True, key=str(number))
    (keys,) = (tmp_path / NOTES).glob("*.keys")
    assert len(keys.read_bytes()) <= 33 * 10
    write(tmp_path, "log", b".", append=True, key="29")
    assert (tmp_path / "log").read_bytes() == b"." * 30


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from pipeline.adapters.outside.files import Files
from pipeline.workflow.errors import StepFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    Files(Path(sys.argv[1])).write("log", b"y" * int(sys.argv[3]), append=sys.argv[2] == "append", key="big")
except StepFailed as error:
    print(error.kind)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "size"), [("append", 20_000), ("append", 100_000), ("whole", 100_000)])
def test_a_write_that_finds_no_room_leaves_what_there_was(tmp_path: Path, mode: str, size: int):
    """A file's size is limited here, as the disk's is elsewhere: the write breaks off in the middle, of the file or of
    what is noted beside it."""
    before = b"before" * 10_000
    write(tmp_path, "log", before, append=True, key="first")
    child = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path), mode, str(size)], capture_output=True, text=True, check=True
    )
    assert child.stdout == "file_failed\n"
    assert (tmp_path / "log").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"log", NOTES}
    write(tmp_path, "log", b", after", append=True, key="second")
    assert (tmp_path / "log").read_bytes() == before + b", after"


def test_a_full_disk_is_worth_another_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(file: int, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_all", full)
    for append in (True, False):
        with pytest.raises(StepFailed) as caught:
            write(tmp_path, "log", append=append)
        assert (caught.value.kind, caught.value.retryable) == ("disk_full", True)
    monkeypatch.undo()
    write(tmp_path, "log", b"x", append=True)
    assert (tmp_path / "log").read_bytes() == b"x"


_ENDLESS = """
import sys
from pathlib import Path
from pipeline.adapters.outside.files import Files
files = Files(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(int(sys.argv[2]), 1_000_000):
    files.write("log", f"<{number}>".encode() * 2000, append=True, key=str(number))
"""


@pytest.mark.slow
def test_kill_at_any_moment(tmp_path: Path):
    """The next process makes the last appends again: none is missing, none is there twice or half."""
    begin = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(tmp_path), str(begin)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        goal = (tmp_path / "log").stat().st_size if (tmp_path / "log").exists() else 0
        while not (tmp_path / "log").exists() or (tmp_path / "log").stat().st_size <= goal + 100_000:
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        begin = max(0, len(set((tmp_path / "log").read_text().split("<"))) - 5)
    write(tmp_path, "log", b"end", append=True, key="end")
    text = (tmp_path / "log").read_text().removesuffix("end")
    count = len(set(text.replace("<", "").split(">"))) - 1
    assert text == "".join(f"<{number}>" * 2000 for number in range(count))


def test_a_folder_that_may_not_be_written(tmp_path: Path):
    root = tmp_path / "file"
    root.write_text("x")
    assert kind(lambda: write(root, "a")) in {"file_failed", "not_allowed"}
