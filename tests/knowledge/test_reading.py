"""Reading documents in a process that can be ended."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pipeline.knowledge.reading import Cut, Job, Reader, Refused, Result, Unchanged, run


def job(path: Path, known: str = "", size: int = 400, overlap: int = 60) -> Job:
    return Job(os.fsencode(path), size, overlap, known)


def write(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def digest(result: Result) -> str:
    assert isinstance(result, Cut)
    return result.digest


def test_a_document_is_cut_and_recognised_again(tmp_path: Path):
    path = write(tmp_path, "a.md", b"# A\n\ntext")
    result = run(job(path))
    assert isinstance(result, Cut)
    assert [tuple(text) for text in result.texts] == [("A", "text")]
    assert run(job(path, known=result.digest)) == Unchanged()


def test_the_digest_changes_with_content_and_cutting_only(tmp_path: Path):
    path = write(tmp_path, "a.md", b"text")
    first = digest(run(job(path)))
    assert digest(run(job(write(tmp_path, "b.md", b"text")))) == first
    os.utime(path, (1, 1))
    assert digest(run(job(path))) == first
    others = {digest(run(job(path, size=500))), digest(run(job(path, overlap=61)))}
    path.write_bytes(b"Text")
    assert len({first, *others, digest(run(job(path)))}) == 4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "not UTF-8 (byte 3)"),
        (b"\x00\x01binary", "not a text file (it holds zero bytes)"),
        ("wide".encode("utf-16"), "not a text file (it holds zero bytes)"),
    ],
)
def test_what_is_not_text_is_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str):
    assert run(job(write(tmp_path, "a.txt", data))) == Refused(reason)


@pytest.mark.parametrize("data", [b"", b" \n\n", b"\xef\xbb\xbf", b"<!-- nothing -->"])
def test_what_holds_no_text_has_no_chunks(tmp_path: Path, data: bytes):
    result = run(job(write(tmp_path, "a.md", data)))
    assert isinstance(result, Cut)
    assert result.texts == []


def test_a_byte_order_mark_is_not_text(tmp_path: Path):
    result = run(job(write(tmp_path, "a.txt", "\ufefftext".encode())))
    assert isinstance(result, Cut)
    assert result.texts[0].text == "text"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert run(job(tmp_path / "pipe.txt")) == Refused("not a regular file")
    (tmp_path / "loop.md").symlink_to("loop.md")
    assert run(job(tmp_path / "loop.md")) == Refused("a loop of symbolic links")
    assert run(job(tmp_path / "gone.md")) == Refused("no such file or directory")
    (tmp_path / "folder.md").mkdir()
    assert run(job(tmp_path / "folder.md")) == Refused("not a regular file")


@pytest.mark.parametrize(("name", "limit"), [("a.txt", 64), ("a.md", 64), ("a.html", 16)])
def test_a_document_over_the_limit_is_refused_unread(tmp_path: Path, name: str, limit: int):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate((100 << 20) + 1)  # sparse: reading it would take memory, looking at it does not
    assert run(job(path)) == Refused(f"100 MiB, where {limit} MiB are allowed")


@pytest.mark.slow
async def test_in_a_process_of_its_own(tmp_path: Path):
    reader = Reader()
    path = write(tmp_path, "a.md", b"# A\n\ntext")
    try:
        results = await asyncio.gather(*(reader.read(job(path)) for _ in range(5)))
        assert [digest(r) for r in results] == [digest(run(job(path)))] * 5
        assert reader._child is not None
        assert reader._child.pid != os.getpid()
    finally:
        await reader.aclose()


@pytest.mark.slow
async def test_a_document_that_takes_too_long_is_given_up_and_the_next_one_read(tmp_path: Path):
    hostile = write(tmp_path, "a.html", b"<a b='" * 400_000)  # quadratic in Python's parser
    good = write(tmp_path, "b.html", b"<p>text</p>")
    reader = Reader(time_limit=0.5)
    try:
        await reader.read(job(good))  # the start of the process does not count
        result = await reader.read(job(hostile))
        assert isinstance(result, Refused)
        assert "takes longer" in result.reason
        reader._time_limit = 30
        assert isinstance(await reader.read(job(good)), Cut)
    finally:
        await reader.aclose()


@pytest.mark.slow
async def test_a_parser_that_dies_costs_one_document(tmp_path: Path):
    hostile = write(tmp_path, "a.html", b"<a b='" * 400_000)
    good = write(tmp_path, "b.html", b"<p>text</p>")
    reader = Reader()
    try:
        await reader.read(job(good))
        assert reader._child is not None
        reading = asyncio.create_task(reader.read(job(hostile)))
        await asyncio.sleep(0)
        os.kill(reader._child.pid, signal.SIGKILL)
        assert await reading == Refused("its parser ended (out of memory?)")
        assert isinstance(await reader.read(job(good)), Cut)
    finally:
        await reader.aclose()


@pytest.mark.slow
async def test_a_cancelled_read_does_not_answer_the_next_one(tmp_path: Path):
    reader = Reader()
    one, two = write(tmp_path, "a.txt", b"one"), write(tmp_path, "b.txt", b"two")
    try:
        await reader.read(job(one))
        reading = asyncio.create_task(reader.read(job(one)))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert digest(await reader.read(job(two))) == digest(run(job(two)))
    finally:
        await reader.aclose()
