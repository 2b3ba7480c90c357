from types import SimpleNamespace

from pipeline.process.handover import inbox_path
from pipeline.process.relay import relay_path
from pipeline.process.sweep import Sweep


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path):
    for pid in (7, 8, 9):
        for path in (relay_path(tmp_path, pid), inbox_path(tmp_path, pid)):
            path.touch()
    others = [tmp_path / name for name in ("headgate.lock", "supervisor.sock", "shard.txt")]
    for path in others:
        path.touch()
    sweep = Sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    relay_path(tmp_path, 10).touch()
    relay_path(tmp_path, 11).touch()
    sweep.gone(SimpleNamespace(pid=10))
    assert sorted(tmp_path.iterdir()) == sorted([*others, relay_path(tmp_path, 11)])
