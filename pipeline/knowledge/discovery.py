"""Which files are documents to be ingested, and what they are called in a collection."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.knowledge.errors import MissingPath
from pipeline.knowledge.reading import MAX_BYTES

SUFFIXES = tuple(MAX_BYTES)


class Document(NamedTuple):
    """`source` is its name in the collection, `size` its bytes when it was found."""

    path: Path
    source: str
    size: int


class Unread(NamedTuple):
    """Something that was asked for and cannot be used. `folder`: everything under it is unknown, not gone."""

    source: str
    reason: str
    folder: bool = False


class Discovery(NamedTuple):
    """`roots` are the paths that were asked for: what a collection holds under them and is not here has vanished."""

    documents: list[Document]
    unread: list[Unread]
    roots: list[Path]

    def covers(self, source: str) -> bool:
        """Whether it lies under the paths that were asked for."""
        return _within(source, [_absolute(root) for root in self.roots])

    def vanished(self, sources: Sequence[str]) -> list[str]:
        """Those of `sources` that lie under the roots and are no longer there."""
        present = {document.source for document in self.documents} | {unread.source for unread in self.unread}
        roots = [_absolute(root) for root in self.roots]
        closed = [_absolute(unread.source) for unread in self.unread if unread.folder]
        return [
            source
            for source in sources
            if source not in present and _within(source, roots) and not _within(source, closed)
        ]


def discover(paths: Sequence[Path]) -> Discovery:
    """Files named, and documents in the folders named, each once, in the order of their names.

    In folders, hidden files and folders, links to folders and files of other kinds are passed over. Raises
    `MissingPath`.
    """
    documents: dict[str, Document] = {}
    unread: dict[str, Unread] = {}
    for path in paths:
        for item in _walk(path) if _is_folder(path) else [_file(path, named=True)]:
            if isinstance(item, Document):
                documents[item.source] = item
            elif item is not None:
                unread[item.source] = item
    found = [documents[key] for key in sorted(documents)]
    return Discovery(found, [unread[key] for key in sorted(unread)], list(paths))


def source_of(path: Path) -> str:
    """Relative to the working directory, absolute outside of it. Bytes that are not UTF-8 are written as `\\udcXX`."""
    absolute, here = _absolute(path), Path.cwd()
    name = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return name.as_posix().encode("utf-8", "backslashreplace").decode()


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, and so change a document's name


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # may not be looked at: reported as a file that may not
        return False


def _walk(folder: Path) -> Iterator[Document | Unread | None]:
    problems: list[OSError] = []
    for at, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield _file(Path(at, name), named=False)
    for problem in problems:
        yield Unread(source_of(Path(problem.filename)), f"folder: {problem.strerror}".lower(), folder=True)


def _file(path: Path, *, named: bool) -> Document | Unread | None:
    source = source_of(path)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        if named and not path.is_symlink():
            raise MissingPath(path) from error
        return Unread(source, "a symbolic link to nothing") if path.is_symlink() else None
    except OSError as error:
        return Unread(source, (error.strerror or str(error)).lower())
    if path.suffix.lower() not in SUFFIXES:
        return Unread(source, f"not one of {', '.join(SUFFIXES)}")
    if stat.S_ISDIR(found.st_mode):
        return None
    return Document(path, source, found.st_size)


def _within(source: str, folders: Sequence[Path]) -> bool:
    absolute = _absolute(source)
    return any(absolute.is_relative_to(folder) for folder in folders)
