"""Ingesting: beside a running knowledge process and without one, interrupted, and with processes killed under it."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.load import encode
from config.schema import Config
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import ingest as ingesting
from pipeline.knowledge import reach as reaching
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.discovery import Unread
from pipeline.knowledge.errors import Disconnected, IngestError, MissingPath
from pipeline.knowledge.ingest import IngestReport, Progress, ingest
from pipeline.knowledge.places import SOCKET
from tests.knowledge.helpers import Daemon, config, served
from workers.lexical import Lexical

pytestmark = pytest.mark.slow

DOCS = Path("docs")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    DOCS.mkdir()
    return tmp_path


def write(**files: str) -> None:
    for name, text in files.items():
        (DOCS / f"{name}.md").write_text(text)


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.unchanged, report.deleted


async def test_added_unchanged_updated_vanished(here: Path):
    conf = config(here / "data")
    async with served(conf) as client:
        write(a="# A\n\nThe ferry leaves at six.", b="# B\n\nThe lamp burns.", c="# C\n\nGone soon.")
        first = await ingest([DOCS], "docs", conf)
        assert (counts(first), first.chunks, first.total_chunks, first.unreadable) == ((3, 0, 0, 0), 3, 3, [])
        assert counts(await ingest([DOCS], "docs", conf)) == (0, 0, 3, 0)
        write(a="# A\n\nThe ferry leaves at seven.", d="# D\n\nNew.")
        Path("docs/c.md").unlink()
        second = await ingest([DOCS], "docs", conf)
        assert (counts(second), second.total_chunks) == ((1, 1, 1, 1), 3)
        assert sorted(await client.documents("docs")) == ["docs/a.md", "docs/b.md", "docs/d.md"]
        found = (await client.search("docs", "when does the ferry leave", 1))[0]
        assert (found.text, found.title, found.source, found.position) == (
            "The ferry leaves at seven.",
            "A",
            "docs/a.md",
            0,
        )


async def test_only_what_lies_under_the_paths_can_vanish(here: Path):
    conf = config(here / "data")
    write(a="one", b="two")
    Path("other.md").write_text("three")
    async with served(conf) as client:
        await ingest([DOCS, Path("other.md")], "docs", conf)
        Path("other.md").unlink()
        Path("docs/a.md").unlink()
        assert counts(await ingest([DOCS], "docs", conf, prune=False)) == (0, 0, 1, 0)
        assert counts(await ingest([Path("docs/b.md")], "docs", conf)) == (0, 0, 1, 0)
        assert counts(await ingest([DOCS], "docs", conf)) == (0, 0, 1, 1)
        assert sorted(await client.documents("docs")) == ["docs/b.md", "other.md"]
        assert counts(await ingest([Path()], "docs", conf)) == (0, 0, 1, 1)


async def test_unreadable_files_are_listed_and_what_they_held_is_kept(here: Path):
    conf = config(here / "data")
    write(good="text", turns="text", empties="text")
    async with served(conf) as client:
        await ingest([DOCS], "docs", conf)
        (DOCS / "turns.md").write_bytes(b"caf\xe9")
        (DOCS / "broken.md").symlink_to("nothing")
        (DOCS / "empties.md").write_text("  \n")
        report = await ingest([DOCS], "docs", conf)
        assert report.unreadable == [
            Unread("docs/broken.md", "a symbolic link to nothing"),
            Unread("docs/turns.md", "not UTF-8 (byte 3)"),
        ]
        assert (report.empty, counts(report)) == (["docs/empties.md"], (0, 0, 1, 1))
        assert sorted(await client.documents("docs")) == ["docs/good.md", "docs/turns.md"]


async def test_a_document_of_many_parts(here: Path):
    conf = config(here / "data")
    write(long="\n\n".join(f"Paragraph {i} is about topic{i}. " * 30 for i in range(100)))
    async with served(conf) as client:
        report = await ingest([DOCS], "docs", conf)
        assert report.chunks == report.total_chunks > 3 * ingesting.PIECES_AT_ONCE
        assert "topic77" in (await client.search("docs", "topic77", 1))[0].text
        write(long="short now")
        assert (await ingest([DOCS], "docs", conf)).total_chunks == 1


async def test_another_chunk_size_stores_everything_anew(here: Path):
    conf = config(here / "data")
    write(a="One sentence of text. " * 100)
    async with served(conf):
        await ingest([DOCS], "docs", conf)
        finer = config(here / "data", {"name": "docs", "chunk_chars": 300})
        report = await ingest([DOCS], "docs", finer)
        assert counts(report) == (0, 1, 0, 0)
        assert report.total_chunks > 6


async def test_what_cannot_begin_says_why(here: Path):
    conf = config(here / "data", {"name": "docs"}, {"name": "mem", "store": "memory"})
    with pytest.raises(MissingPath):
        await ingest([Path("gone.md")], "docs", conf)
    with pytest.raises(IngestError, match=r"no collection 'x' is configured \(there are: docs, mem\)"):
        await ingest([DOCS], "x", conf)
    with pytest.raises(IngestError, match="start `headgate serve` first"):
        await ingest([DOCS], "mem", conf)
    async with served(conf) as client:
        write(a="text")
        assert counts(await ingest([DOCS], "mem", conf)) == (1, 0, 0, 0)
        assert await client.count("mem") == 1


async def test_another_embedder_needs_recreate(here: Path):
    conf = config(here / "data")
    write(a="text", b="text")
    async with served(conf):
        await ingest([DOCS], "docs", conf)
    manifest = here / "data" / "collections" / "docs" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(Lexical.fingerprint, "other.1"))
    async with served(conf) as client:
        with pytest.raises(CollectionMismatch, match="--recreate"):
            await ingest([DOCS], "docs", conf)
        report = await ingest([DOCS], "docs", conf, recreate=True)
        assert counts(report) == (2, 0, 0, 0)
        assert await client.count("docs") == 2


async def test_others_documents_are_spared_when_asked(here: Path):
    conf = config(here / "data")
    write(a="text")
    Path("mine.md").write_text("mine")
    async with served(conf):
        assert counts(await ingest([DOCS], "docs", conf, spare_others=True)) == (1, 0, 0, 0)
        write(b="more")
        assert counts(await ingest([DOCS], "docs", conf, spare_others=True)) == (1, 0, 1, 0)
        await ingest([Path("mine.md")], "docs", conf)
        write(c="not loaded")
        report = await ingest([DOCS], "docs", conf, spare_others=True)
        assert (report.spared, counts(report)) == (True, (0, 0, 0, 0))


async def test_progress_grows_to_the_whole(here: Path):
    conf = config(here / "data")
    write(a="text " * 2000, b="text", c="")
    seen: list[tuple[int, float, int]] = []
    last = Progress()

    def report(progress: Progress) -> None:
        nonlocal last
        last = progress
        seen.append((progress.files_done, progress.bytes_done, progress.chunks))

    async with served(conf):
        result = await ingest([DOCS], "docs", conf, report=report)
    assert seen == sorted(seen)
    assert (last.files, last.files_done, last.chunks) == (3, 3, result.chunks)
    assert last.bytes_done == pytest.approx(last.bytes)
    assert last.bytes == 10_004


async def test_without_a_daemon_it_brings_its_own_process(here: Path):
    conf = config(here / "data")
    write(a="text", b="more")
    assert counts(await ingest([DOCS], "docs", conf)) == (2, 0, 0, 0)
    assert not (here / "data" / SOCKET).exists()
    assert counts(await ingest([DOCS], "docs", conf)) == (0, 0, 2, 0)


async def test_a_daemon_that_starts_meanwhile_takes_over(here: Path):
    """The temporary process gives way; the ingest goes on with the daemon's."""
    conf = config(here / "data")
    write(**{f"d{i}": f"# Title {i}\n\n" + "text " * 400 for i in range(60)})
    begun = asyncio.Event()
    task = asyncio.create_task(ingest([DOCS], "docs", conf, report=lambda p: p.chunks >= 4 and begun.set()))
    await begun.wait()
    async with served(conf) as client:
        assert not task.done()
        report = await task
        assert (report.added, report.total_chunks) == (60, report.chunks)
        assert len(await client.documents("docs")) == 60
        assert all((await client.documents("docs")).values())


async def test_a_process_that_is_restarted_meanwhile_is_waited_for(here: Path):
    conf = config(here / "data")
    write(**{f"d{i}": f"# Title {i}\n\n" + "text " * 400 for i in range(60)})
    begun = asyncio.Event()
    first = await Daemon(conf).ready()
    task = asyncio.create_task(ingest([DOCS], "docs", conf, report=lambda p: p.chunks >= 4 and begun.set()))
    await begun.wait()
    first.kill()
    second = await Daemon(conf).ready()
    try:
        report = await task
        assert (report.added, report.unreadable) == (60, [])
        client = KnowledgeClient(here / "data" / SOCKET)
        assert all((await client.documents("docs")).values())
        assert await client.count("docs") == report.total_chunks
        await client.aclose()
    finally:
        second.kill()


async def test_a_process_that_stays_away_is_replaced_by_one_of_our_own(here: Path):
    """Say that of another ingest, which has come to its end."""
    conf = config(here / "data")
    write(**{f"d{i}": "text " * 400 for i in range(60)})
    begun = asyncio.Event()
    process = await Daemon(conf).ready()
    task = asyncio.create_task(ingest([DOCS], "docs", conf, report=lambda p: p.chunks >= 4 and begun.set()))
    await begun.wait()
    process.kill()
    assert counts(await task) == (60, 0, 0, 0)
    assert not (here / "data" / SOCKET).exists()


async def test_two_at_once_without_a_daemon(here: Path):
    conf = config(here / "data")
    write(**{f"d{i}": "text " * 400 for i in range(30)})
    Path("more").mkdir()
    for i in range(60):
        Path(f"more/m{i}.md").write_text("other " * 400)
    one, two = await asyncio.gather(ingest([DOCS], "docs", conf), ingest([Path("more")], "docs", conf))
    assert (one.added, two.added) == (30, 60)
    async with served(conf) as client:
        assert sorted(set((await client.documents("docs")).values())) != [""]
        assert await client.count("docs") == one.chunks + two.chunks


async def test_a_process_that_ends_again_and_again_ends_it(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reaching, "RETRY_SECONDS", 0.3)

    async def gone(*_: object) -> None:
        raise Disconnected("the knowledge process went away before it answered", collection="docs")

    conf = config(here / "data")
    write(a="text")
    async with served(conf):
        monkeypatch.setattr(KnowledgeClient, "write", gone)
        with pytest.raises(Disconnected):
            await ingest([DOCS], "docs", conf)


async def test_an_error_of_the_store_is_raised_as_it_is(here: Path, monkeypatch: pytest.MonkeyPatch):
    async def full(*_: object) -> None:
        raise RetrievalError("collection 'docs': writing failed: no space left on device", collection="docs")

    conf = config(here / "data")
    write(a="text", b="text")
    async with served(conf):
        monkeypatch.setattr(KnowledgeClient, "write", full)
        with pytest.raises(RetrievalError, match="no space left"):
            await ingest([DOCS], "docs", conf)


async def test_cancelled_anywhere_it_can_be_completed(here: Path):
    conf = config(here / "data")
    write(**{f"d{i}": f"# Title {i}\n\n" + f"text{i} " * 300 for i in range(30)})
    write(long="Sentence of a long document. " * 3000)
    chooser = random.Random(7)
    async with served(conf) as client:
        for _ in range(6):
            stop_at = chooser.randrange(1, 60)
            reached = asyncio.Event()
            task = asyncio.create_task(
                ingest([DOCS], "docs", conf, report=lambda p, at=stop_at, e=reached: p.chunks >= at and e.set())
            )
            waiting = asyncio.create_task(reached.wait())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            task.cancel()
            await asyncio.wait([task])
            assert all(p.text for p in await client.search("docs", "text3 sentence", 5))
        report = await ingest([DOCS], "docs", conf)
        fresh = config(here / "data2")
        async with served(fresh):
            wanted = await ingest([DOCS], "docs", fresh)
        assert report.total_chunks == wanted.total_chunks
        assert len(await client.documents("docs")) == 31
        assert all((await client.documents("docs")).values())


_INGEST = """
import asyncio, sys
from pathlib import Path
from config.load import decode
from pipeline.knowledge.ingest import ingest

def report(progress):
    print(progress.chunks, flush=True)

asyncio.run(ingest([Path("docs")], "docs", decode(sys.stdin.buffer.read()), report=report))
"""


def run_ingest(conf: Config) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", _INGEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdin is not None
    child.stdin.write(encode(conf))
    child.stdin.close()
    return child


def stored(child: subprocess.Popen[bytes], chunks: int) -> None:
    """Waits until the ingest has stored so many."""
    assert child.stdout is not None
    assert any(int(line) >= chunks for line in child.stdout)


def kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


async def test_the_knowledge_process_killed_at_any_moment_of_an_ingest(here: Path):
    """Whatever was being written: the collection opens again, the ingest completes, the counts are right."""
    conf = config(here / "data")
    write(**{f"d{i}": f"# Title {i}\n\n" + f"text{i} " * 300 for i in range(150)})
    write(long="Sentence of a long document. " * 5000)
    chooser = random.Random(11)
    for _ in range(5):
        process = await Daemon(conf).ready()
        child = run_ingest(conf)
        await asyncio.to_thread(stored, child, chooser.randrange(1, 60))
        await asyncio.sleep(chooser.uniform(0, 0.02))  # at any point within a write
        process.kill()
        kill(child)
    async with served(conf) as client:
        before = await client.documents("docs")
        assert before  # otherwise nothing was tested
        report = await ingest([DOCS], "docs", conf)
        assert report.added + report.updated > 0  # it never came to its end before
        assert len(await client.documents("docs")) == 151
        assert all((await client.documents("docs")).values())
        total = await client.count("docs")
    fresh = config(here / "data2")
    async with served(fresh):
        assert (await ingest([DOCS], "docs", fresh)).total_chunks == total == report.total_chunks


async def test_an_ingest_that_is_killed_leaves_no_process(here: Path):
    conf = config(here / "data")
    write(**{f"d{i}": "text " * 400 for i in range(200)})
    child = run_ingest(conf)
    while not (here / "data" / SOCKET).exists():
        await asyncio.sleep(0.01)
    kill(child)
    until = time.monotonic() + 20
    while (here / "data" / SOCKET).exists():  # its process sees that it is alone, and ends
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    async with served(conf) as client:
        assert await client.count("docs") >= 0
