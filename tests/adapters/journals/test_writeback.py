"""Commits begin their way to the disk at once, where the system can do that."""

import os
from pathlib import Path

from pipeline.adapters.journals.writeback import Writeback


def _open_files(path: Path) -> int:
    here = Path("/proc/self/fd")
    return sum(os.path.realpath(one) == str(path) for one in here.iterdir())


def test_holds_one_file_open_until_it_is_closed(tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100_000)
    writeback = Writeback()
    for _ in range(2):
        writeback.open(path)
        assert _open_files(path) == 1
        writeback.committed()
        writeback.committed()
        assert _open_files(path) == 1  # it was not refused
    writeback.close()
    writeback.close()
    assert _open_files(path) == 0
    writeback.committed()


def test_gives_up_where_it_is_refused(tmp_path: Path):
    """A pipe has no pages to be written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    keeper = os.open(path, os.O_RDWR)
    writeback = Writeback()
    try:
        writeback.open(path)
        before = _open_files(path)
        writeback.committed()
        assert _open_files(path) == before - 1
    finally:
        os.close(keeper)
    writeback.open(tmp_path / "missing")
    writeback.committed()
