import os
import resource
import signal
import threading
from pathlib import Path

import msgspec
import pytest

from benchmarks.report.errors import CannotRead, CannotWrite, NotFinite
from benchmarks.report.files import check_writable, read, write, write_text
from tests.benchmarks.report import reports


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("make", [reports.small, reports.bare, reports.interrupted, reports.hostile, reports.report])
def test_what_was_written_is_read_again(make, tmp_path):
    made = make()
    write(made, tmp_path / "run.json")
    assert read(tmp_path / "run.json") == made
    assert names(tmp_path) == ["run.json"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        write(reports.small(), tmp_path / "run.json")
    finally:
        os.umask(old)
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o644


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run.json")
    write(reports.small(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "run.json") == reports.small()


def test_a_pipe_is_written_straight(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(reports.report(), pipe)
    reader.join(10)
    assert msgspec.json.decode(got[0])["scenario_name"] == "overload"
    assert names(tmp_path) == ["pipe"]


def test_a_file_that_grows_too_large_leaves_what_was_there(tmp_path):
    path = tmp_path / "run.json"
    write_text("before", path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(CannotWrite) as caught:
            write(reports.report(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "file too large" in caught.value.reason
    assert path.read_text() == "before"
    assert names(tmp_path) == ["run.json"]


def test_a_full_disk_is_named():
    with pytest.raises(CannotWrite, match="cannot write /dev/full: no space left on device"):
        write(reports.small(), Path("/dev/full"))


@pytest.mark.parametrize("act", [check_writable, lambda path: write(reports.small(), path)])
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("missing/run.json", "no such file or directory"),
        ("folder", "it is a folder"),
        ("file/run.json", "not a directory"),
        ("x" * 300, "file name too long"),
    ],
)
def test_a_place_that_cannot_be_written(act, where, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite) as caught:
        act(tmp_path / where)
    assert caught.value.path == tmp_path / where
    assert caught.value.reason == reason


def test_no_permission_is_found_before_the_run():
    with pytest.raises(CannotWrite):
        check_writable(Path("/proc/sys/run.json"))


def test_checking_leaves_nothing_and_changes_nothing(tmp_path):
    check_writable(tmp_path / "new.json")
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    check_writable(Path("/dev/null"))
    assert names(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not JSON", "it is not JSON"),
        (b"", "it is not JSON"),
        (b"\xff\xfe{}", "it is not JSON"),
        (b"[]", "it is not a report: Expected `object`, got `array`"),
        (b'{"a": 1}', "it is not a report: Object missing required field `format`"),
        (b'{"format": 2}', "it is a report of format 2; this version reads format 1"),
        (b'{"format": 1, "name": 5}', "it is not a report: Expected `str`, got `int` - at `$.name`"),
        (b'{"format": 1, "name": "cut of', "it is not JSON"),
    ],
)
def test_a_file_that_is_no_report(content, reason, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(CannotRead) as caught:
        read(path)
    assert caught.value.reason.startswith(reason)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(CannotRead, match="no such file or directory"):
        read(tmp_path / "run.json")


def test_a_number_that_json_cannot_say_is_refused_with_its_field(tmp_path):
    made = reports.small()
    made.phases[0].goodput = float("inf")
    with pytest.raises(NotFinite, match=r"phases\[0\]\.goodput is inf"):
        write(made, tmp_path / "run.json")
    assert names(tmp_path) == []


def test_a_file_without_end_is_not_read_to_its_end():
    with pytest.raises(CannotRead, match="more than"):
        read(Path("/dev/zero"))
