"""Sockets with long paths, folders for any collection's name."""

import socket
import sys
from pathlib import Path

import pytest

from pipeline.knowledge.places import MAX_SOCKET_PATH, collection_folder, socket_address


def deep(tmp_path: Path) -> Path:
    folder = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8)
    folder.mkdir(parents=True)
    return folder / "knowledge.sock"


def test_a_short_path_is_used_as_it_is():
    with socket_address(Path("/tmp/x.sock")) as address:
        assert address == "/tmp/x.sock"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_path_too_long_for_the_kernel_can_be_bound_and_reached(tmp_path: Path):
    path = deep(tmp_path)
    assert len(str(path)) > 107
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with socket_address(path) as address:
            assert len(address) < MAX_SOCKET_PATH
            listener.bind(address)
        assert path.is_socket()
        listener.listen()
        with socket_address(path) as address:
            client.connect(address)


def test_without_proc_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match=r"server\.data_dir"), socket_address(deep(tmp_path)):
        pass


def test_every_name_has_a_folder_of_its_own_inside_the_data_folder(tmp_path: Path):
    names = ["docs", "a/b", "a%2Fb", "a/../../b", "a:b", "a.b"]
    folders = [collection_folder(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(folder.resolve().parent == tmp_path / "collections" for folder in folders)
