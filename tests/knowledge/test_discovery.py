"""Which files are found, what they are called, and what counts as vanished."""

import os
from pathlib import Path

import pytest

from pipeline.knowledge.discovery import Discovery, discover, source_of
from pipeline.knowledge.errors import MissingPath


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


def sources(found: Discovery) -> list[str]:
    return [document.source for document in found.documents]


def test_documents_in_folders_in_order_and_nothing_else(here: Path):
    make("docs/b.md", "docs/a.TXT", "docs/sub/c.html", "docs/d.py", "docs/.hidden.md", "docs/.git/e.md", "other.md")
    found = discover([Path("docs")])
    assert sources(found) == ["docs/a.TXT", "docs/b.md", "docs/sub/c.html"]
    assert found.unread == []
    assert [document.size for document in found.documents] == [4, 4, 4]


def test_a_document_named_twice_is_found_once(here: Path):
    make("docs/a.md")
    assert sources(discover([Path("docs"), Path("docs/a.md"), here / "docs", Path("./docs/../docs")])) == ["docs/a.md"]


def test_names_are_relative_to_here_and_absolute_elsewhere(here: Path, tmp_path: Path):
    make("a.md", "../away/b.md")
    assert sources(discover([here, Path("../away")])) == [f"{tmp_path}/away/b.md", "a.md"]
    assert source_of(Path()) == "."


def test_a_named_file_of_another_kind_is_unread():
    make("a.pdf", ".hidden.md")
    found = discover([Path("a.pdf"), Path(".hidden.md")])
    assert sources(found) == [".hidden.md"]
    assert [(u.source, u.reason) for u in found.unread] == [("a.pdf", "not one of .md, .txt, .html")]


def test_a_missing_path_is_an_error():
    with pytest.raises(MissingPath, match=r"gone\.md does not exist"):
        discover([Path("gone.md")])


def test_links(here: Path):
    make("real/a.md")
    Path("docs").mkdir()
    Path("docs/link.md").symlink_to("../real/a.md")
    Path("docs/folder").symlink_to("../real")
    Path("docs/broken.md").symlink_to("nothing")
    Path("docs/loop.md").symlink_to("loop.md")
    Path("docs/up").symlink_to("..")
    found = discover([Path("docs")])
    assert sources(found) == ["docs/link.md"]
    assert [(u.source, u.reason) for u in found.unread] == [
        ("docs/broken.md", "a symbolic link to nothing"),
        ("docs/loop.md", "too many levels of symbolic links"),
    ]
    assert sources(discover([Path("docs/folder")])) == ["docs/folder/a.md"]
    assert [u.source for u in discover([Path("docs/broken.md"), Path("docs/loop.md")]).unread] == [
        "docs/broken.md",
        "docs/loop.md",
    ]


def test_folders_named_like_documents_are_folders():
    make("docs/folder.md/a.md")
    assert sources(discover([Path("docs")])) == ["docs/folder.md/a.md"]


def test_names_that_are_not_utf8(here: Path):
    for name in (b"\xff.md", b"\xfe.md"):
        Path(os.fsdecode(name)).write_text("x")
    found = discover([here])
    assert sources(found) == ["\\udcfe.md", "\\udcff.md"]
    assert all(document.path.read_text() == "x" for document in found.documents)


def test_vanished_are_those_under_the_paths_that_are_not_there(here: Path):
    make("docs/a.md", "docs2/b.md")
    stored = ["docs/a.md", "docs/gone.md", "docs/sub/gone.md", "docs2/gone.md", "gone.md", "/etc/gone.md"]
    assert discover([Path("docs")]).vanished(stored) == ["docs/gone.md", "docs/sub/gone.md"]
    assert discover([Path()]).vanished(stored) == stored[1:5]
    assert discover([Path("..")]).vanished(stored) == stored[1:5]
    assert discover([Path("docs/a.md")]).vanished(stored) == []


def test_what_cannot_be_read_has_not_vanished(here: Path, monkeypatch: pytest.MonkeyPatch):
    make("docs/a.md", "docs/closed/b.md")
    Path("docs/broken.md").symlink_to("nothing")
    real = os.scandir

    def scandir(path):  # permissions do not stop root, as which tests may run
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = discover([Path("docs")])
    assert [(u.source, u.reason) for u in found.unread] == [
        ("docs/broken.md", "a symbolic link to nothing"),
        ("docs/closed", "folder: permission denied"),
    ]
    assert found.vanished(["docs/closed/b.md", "docs/closed/c.md", "docs/broken.md", "docs/x.md"]) == ["docs/x.md"]


def test_covers_what_lies_under_the_paths(here: Path):
    make("docs/a.md", "README.md")
    found = discover([Path("docs"), Path("README.md")])
    assert [found.covers(s) for s in ("docs/old.md", "README.md", "other.md", "docs.md")] == [True, True, False, False]
