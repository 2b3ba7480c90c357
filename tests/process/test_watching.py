"""Files that change, in all the ways in which editors and orchestrators change them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from config.files import Stamp
from config.load import load
from pipeline.process.watching import as_read, files_of, watch
from tests.config.helpers import SMALLEST

INTERVAL = 0.02
QUIET = 5 * INTERVAL  # in which nothing must happen


class Watched:
    """What a watcher noticed: how often so far, and a wait for the next time."""

    def __init__(self) -> None:
        self.times = 0
        self._noticed = asyncio.Event()

    async def changed(self) -> None:
        self.times += 1
        self._noticed.set()

    async def once(self) -> None:
        """Exactly one more time."""
        before = self.times
        async with asyncio.timeout(5):
            await self._noticed.wait()
        self._noticed.clear()
        await asyncio.sleep(QUIET)
        assert self.times == before + 1


@asynccontextmanager
async def watching(
    paths: Callable[[], Iterable[Path]], known: dict[Path, Stamp] | None = None
) -> AsyncIterator[Watched]:
    watched = Watched()
    task = asyncio.create_task(watch(paths, watched.changed, INTERVAL, known=known))
    if known is None:
        await asyncio.sleep(QUIET)  # it has looked by now; should it not have, tests fail for want of a change
    try:
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def written(file: Path) -> None:
    file.write_text("longer than before")


def replaced(file: Path) -> None:
    """As most editors and `sed -i` do. Size and times are as they were."""
    times, new = file.stat(), file.with_name("new")
    new.write_text(file.read_text()[::-1])
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.replace(file)


def removed(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("change", [written, replaced, removed])
async def test_a_change_is_noticed_once(tmp_path, change):
    file = tmp_path / "file"
    file.write_text("before")
    async with watching(lambda: [file]) as watched:
        change(file)
        await watched.once()
        file.write_text("and again")
        await watched.once()


async def test_a_folder_of_links_that_is_turned_to_another_one_is_noticed(tmp_path):
    """As Kubernetes does it: file → ..data/file, ..data → a folder; a new `..data` is moved over the old one."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pipeline.toml").write_text("same")
    (tmp_path / "..data").symlink_to("one")
    file = tmp_path / "pipeline.toml"
    file.symlink_to("..data/pipeline.toml")
    async with watching(lambda: [file]) as watched:
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "..data")
        await watched.once()


async def test_several_files_that_change_after_one_another_are_one_change(tmp_path):
    files = [tmp_path / name for name in "abcdef"]
    for file in files:
        file.write_text("before")
    async with watching(lambda: files) as watched:
        for file in files:
            file.write_text("changed now")
            await asyncio.sleep(INTERVAL / 4)
        await watched.once()


async def test_other_files_and_the_same_contents_again_are_no_change(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")
    async with watching(lambda: [file]) as watched:
        (tmp_path / "other").write_text("x")
        file.read_text()
        file.chmod(0o600)
        await asyncio.sleep(QUIET)
        assert not watched.times


async def test_files_that_are_named_later_are_watched_from_then_on(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("x")
    second.write_text("x")
    named = [first]
    async with watching(lambda: named) as watched:
        named.append(second)
        await asyncio.sleep(QUIET)
        assert not watched.times
        second.write_text("changed now")
        await watched.once()
        first.write_text("changed now")
        await watched.once()


async def test_what_changed_since_it_was_read_is_noticed_although_nobody_looked(tmp_path):
    file, prompt = tmp_path / "pipeline.toml", tmp_path / "prompt.j2"
    for changed in (file, prompt):
        prompt.write_text("Be brief.")
        file.write_text(SMALLEST + 'template_file = "prompt.j2"\n')
        loaded = load(file, {})
        known, files = as_read(loaded), partial(files_of, file, loaded.config)
        async with watching(files, known) as watched:
            await asyncio.sleep(QUIET)
            assert watched.times == 0
        changed.write_text(changed.read_text() + "\n")
        async with watching(files, known) as watched:
            await watched.once()


def test_the_files_of_a_configuration_are_all_that_a_reload_reads_again(tmp_path):
    names = ["cert.pem", "header", "key.pem", "prompt.j2", "secret", "token"]
    for name in [*names, "model.gguf"]:
        (tmp_path / name).write_text("GGUF")
    file = tmp_path / "pipeline.toml"
    file.write_text(
        '[server]\ntls_certificate = "cert.pem"\ntls_key = "key.pem"\n[admin]\ntoken = "file:token"\n'
        + SMALLEST
        + 'template_file = "prompt.j2"\n'
        + '[[workers]]\nname = "o"\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "file:secret"\n'
        + '[[workers]]\nname = "p"\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "env:SECRET"\n'
        + 'headers = {X-Api-Key = "file:header", X-Team = "blue", X-Token = "env:TOKEN"}\n'
        + '[[workers]]\nname = "l"\nkind = "llama-cpp"\ngguf = "model.gguf"\n'
    )
    found = files_of(file, load(file, {}).config)
    assert found[0] == file
    assert sorted(path.name for path in found[1:]) == names
    assert all(path.exists() for path in found)
