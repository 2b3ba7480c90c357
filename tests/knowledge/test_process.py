"""The life of the knowledge process, in real processes where that matters."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.schema import Config
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import IngestError
from pipeline.knowledge.ingest import ingest
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.process import serve
from pipeline.knowledge.temporary import temporary_process
from tests.knowledge.helpers import Daemon, config, pieces, served
from workers.minilm import MiniLM, missing_packages


@asynccontextmanager
async def daemon(conf: Config) -> AsyncIterator[Daemon]:
    process = Daemon(conf)
    try:
        yield await process.ready()
    finally:
        if process.child.returncode is None:
            process.kill()


def begin(conf: Config, *, temporary: bool = False) -> tuple[asyncio.Task[None], asyncio.Event, asyncio.Event]:
    ready, stopping = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(conf, ready=ready.set, stopping=stopping, temporary=temporary))
    return task, ready, stopping


async def logged(logs: list[MutableMapping[str, Any]], event: str) -> None:
    while all(line["event"] != event for line in logs):
        await asyncio.sleep(0.01)


async def test_it_makes_the_data_folder_and_leaves_only_what_lasts(tmp_path: Path):
    data = tmp_path / "new" / "data"
    async with served(config(data)) as client:
        await client.write("docs", pieces())
    assert sorted(p.name for p in data.iterdir()) == ["collections", "knowledge.lock"]


async def test_a_data_folder_that_cannot_be_used_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        await serve(config(tmp_path / "file"), ready=lambda: None, stopping=asyncio.Event())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_data_folder_deeper_than_a_socket_path_may_be_long(tmp_path: Path):
    async with served(config(tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8))) as client:
        assert await client.count("docs") == 0


async def test_while_another_process_has_the_folder_it_waits_and_says_so(tmp_path: Path):
    conf = config(tmp_path)
    with capture_logs() as logs:
        async with served(conf) as client:
            task, ready, stopping = begin(conf)
            await logged(logs, "data_dir_in_use")
            assert not ready.is_set()
            assert await client.count("docs") == 0
        await ready.wait()
        stopping.set()
        await task
    told = [line["event"] for line in logs if line["event"] != "collection_empty"]
    assert told == ["waiting_for_data_dir", "data_dir_in_use"]


async def test_stopped_while_it_waits_it_ends(tmp_path: Path):
    conf = config(tmp_path)
    with capture_logs() as logs:
        async with served(conf):
            task, ready, stopping = begin(conf)
            await logged(logs, "waiting_for_data_dir")
            stopping.set()
            await task
    assert not ready.is_set()


async def test_a_temporary_process_gives_way_to_a_daemons(tmp_path: Path):
    conf = config(tmp_path)
    task, ready, _ = begin(conf, temporary=True)
    await ready.wait()
    async with served(conf) as client:
        await task
        assert await client.request_yield() is False


async def test_a_temporary_process_is_not_needed_where_another_one_serves(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf):
        task, ready, _ = begin(conf, temporary=True)
        await task
        assert not ready.is_set()


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {missing_packages()}")
async def test_ready_within_its_time_and_then_quick(tmp_path: Path):
    conf = config(tmp_path, {"name": "docs", "embedder": "minilm"})
    async with daemon(conf):  # converts the model
        pass
    began = time.monotonic()
    async with daemon(conf):
        assert time.monotonic() - began < 4.0
        client = KnowledgeClient(tmp_path / SOCKET)
        assert (await client.embed("docs", "x")).embedder == MiniLM.fingerprint
        await client.aclose()


@pytest.mark.slow
async def test_killed_it_loses_nothing_that_was_written(tmp_path: Path):
    conf = config(tmp_path)
    client = KnowledgeClient(tmp_path / SOCKET)
    for round_ in range(3):
        async with daemon(conf) as process:
            assert await client.documents("docs") == {f"{i}.md": "d1" for i in range(round_)}
            await client.write("docs", pieces(f"{round_}.md"))
            process.kill()
    async with daemon(conf) as process:
        assert await client.count("docs") == 9
        assert process.stop() == 0
    await client.aclose()


@pytest.mark.slow
async def test_a_temporary_process_ends_with_its_parent(tmp_path: Path):
    conf = config(tmp_path)
    client = KnowledgeClient(tmp_path / SOCKET)
    async with temporary_process(conf, conf.collections[0]) as needed:
        assert needed
        assert await client.count("docs") == 0
    assert not (tmp_path / SOCKET).exists()
    await client.aclose()


@pytest.mark.slow
async def test_a_temporary_process_that_cannot_start_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    conf = config(tmp_path / "file")
    with pytest.raises(IngestError, match="could not be started"):
        async with temporary_process(conf, conf.collections[0]):
            pass
    assert f"Cannot write to the data folder {tmp_path / 'file'}" in capfd.readouterr().err


@pytest.mark.slow
async def test_folders_named_like_our_packages_where_the_user_works_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("config", "pipeline", "workers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.md").write_text("text")
    report = await ingest([tmp_path / "a.md"], "docs", config(tmp_path / "data"))
    assert (report.added, report.unreadable) == (1, [])
