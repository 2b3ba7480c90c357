import pytest

from benchmarks.soak.places import Daemon


@pytest.fixture
def daemon(tmp_path):
    for folder in ("data/collections/docs", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "headgate.lock").touch()
    return Daemon(tmp_path, 1)


def test_what_a_daemon_keeps_is_not_left_behind(daemon):
    (daemon.folder / "data" / "collections" / "docs" / "segment").touch()
    assert list(daemon.left_behind()) == []


@pytest.mark.parametrize("name", ["data/supervisor.sock", "data/shard-1.sock", "tmp/something"])
def test_sockets_and_temporary_files_are(daemon, name):
    (daemon.folder / name).touch()
    assert list(daemon.left_behind()) == [name]


def test_log_lines_are_counted_by_level_and_event(daemon):
    for line in (
        '{"event":"request","level":"info","route":"r"}',
        '{"event":"process_died","level":"error"}',
        '{"event":"Task exception was never retrieved","level":"error","logger":"asyncio"}',
        "Traceback (most recent call last):",
    ):
        daemon._note(line)
    assert daemon.events == {"request": 1, "error process_died": 1, "error (library)": 1, "(no JSON)": 1}
    assert len(daemon.lines) == 3
