"""The `llama-cpp` worker with real processes that serve a tiny model."""

import asyncio
import json
import os
import signal
from contextlib import aclosing

import gguf
import pytest

from pipeline.process.counters import State
from tests.local_models import configured, kept, loaded, section, serving, tiny_gguf, until
from tests.process.daemon import alive
from tests.workers.helpers import acquired, ask, told
from workers import llama_cpp, llama_files
from workers.base import CountingWorker, EmbeddingRequest, EmbeddingWorker
from workers.errors import WorkerError, WorkerErrorKind, WorkerUnavailable
from workers.llama_cpp import LlamaCpp
from workers.llama_files import Note

SLOTS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def worker_for(tmp_path):
    """Makes workers that find their processes under `tmp_path`; they have let go of these in the end."""
    workers = []
    sections = []

    def make(given):
        sections.append(given)
        workers.append(LlamaCpp(given, tmp_path))
        return workers[-1]

    yield make
    for worker in workers:
        assert acquired(worker) == 0
        await worker.aclose()
    assert all(llama_files.unused(llama_files.files(given, tmp_path).uses) for given in sections)


async def refused(worker, **options):
    with pytest.raises(WorkerError) as raised:
        await told(worker, ask("w1", max_tokens=4, **options))
    assert raised.value.kind is WorkerErrorKind.UNAVAILABLE
    return raised.value


@pytest.mark.slow
async def test_one_process_serves_what_any_openai_server_does(model, tmp_path, worker_for):
    given = section(model, slots=SLOTS)
    worker = worker_for(given)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        for stream in (True, False):
            answer = await told(worker, ask("w1 w2", stream=stream, max_tokens=12))
            assert len(answer.text.split()) == 12
            assert answer.reasons == {0: ["length"]}
            assert answer.usages[0].completion_tokens == 12
            bodies = [batch.body for batch in answer.batches] + [delta.raw for delta in answer.deltas]
            assert {json.loads(body)["model"] for body in bodies if body} == {"tiny"}  # its file is tiny.gguf
        answers = await asyncio.gather(*[told(worker, ask(f"w{n}", max_tokens=20)) for n in range(4 * SLOTS)])
        assert [answer.usages[0].completion_tokens for answer in answers] == [20] * 4 * SLOTS
        health = await worker.health()
        assert (health.ok, health.slots, health.context_tokens) == (True, SLOTS, given.context_tokens)
        assert isinstance(worker, CountingWorker)
        counted = await worker.count_tokens(ask("w1 w2", max_tokens=1))
        assert counted == (await told(worker, ask("w1 w2", max_tokens=1))).usages[0].prompt_tokens
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask("w1 " * 5000))
        assert raised.value.kind is WorkerErrorKind.CONTEXT_TOO_LONG
        assert isinstance(worker, EmbeddingWorker)
        with pytest.raises(WorkerError, match="does not support embeddings") as raised:
            await worker.embed(EmbeddingRequest("r", "m", ("w1",)))
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.BAD_REQUEST, False)
        assert keeper.restarts == 0
        files = llama_files.files(given, tmp_path)
        assert files.socket.stat().st_mode & 0o077 == 0
        assert files.socket.parent.stat().st_mode & 0o077 == 0


@pytest.mark.slow
async def test_a_model_for_embeddings_embeds(tmp_path, worker_for):
    given = section(tiny_gguf(tmp_path, pooling=gguf.PoolingType.MEAN))
    worker = worker_for(given)
    async with serving(configured(tmp_path, given)) as models:
        await loaded(models)
        body = b'{"model": "m", "input": ["w1 w2", "w3"]}'
        listed = await worker.embed(EmbeddingRequest("r", "m", ("w1 w2", "w3"), body=body))
        assert json.loads(listed.body)["model"] == "tiny"
        request = EmbeddingRequest("r", "m", ("w1 w2", "w3"))
        first, again = [(await worker.embed(request)).vectors for _ in range(2)]
        assert [len(vector) for vector in first] == [64, 64]
        assert first[0] != first[1]
        assert again[0] == pytest.approx(first[0], abs=1e-5)


@pytest.mark.slow
async def test_a_call_that_is_left_frees_its_slot(model, tmp_path, worker_for):
    given = section(model, slots=1)
    worker = worker_for(given)
    async with serving(configured(tmp_path, given)) as models:
        await loaded(models)
        async with aclosing(worker.generate(ask("w1", max_tokens=1900))) as answer:
            await anext(answer)
        async with asyncio.timeout(2):  # there is but one
            await told(worker, ask("w2", max_tokens=1))


@pytest.mark.slow
async def test_killed_in_the_middle_it_is_back_for_the_next_call(model, tmp_path, worker_for):
    given = section(model)
    worker = worker_for(given)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        old = keeper.current
        answer = worker.generate(ask("w1", max_tokens=1900))
        await anext(answer)
        os.kill(old.pid, signal.SIGKILL)
        with pytest.raises(WorkerError) as raised:
            async for _ in answer:
                pass
        assert raised.value.kind in (WorkerErrorKind.RESET, WorkerErrorKind.CUT)
        await until(lambda: not alive(old.pid) and keeper.current is None)
        error = await refused(worker)
        assert (error.retryable, error.retry_after) == (True, 1.0)
        assert "being loaded" in error.message
        assert not (await worker.health()).ok
        await until(lambda: keeper.state is State.READY)
        assert (await told(worker, ask("w1", max_tokens=4))).reasons == {0: ["length"]}
        assert keeper.restarts == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "its gguf cannot be read: No such file or directory"),
        (b"<html>not found</html>", "its gguf is no GGUF file: it begins with b'<htm'"),
        (b"", "its gguf is no GGUF file"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 100, "llama.cpp cannot load it: "),
    ],
)
async def test_a_file_that_is_none(contents, reason, tmp_path, worker_for):
    path = tmp_path / "broken.gguf"
    if contents is not None:
        path.write_bytes(contents)
    given = section(path)
    worker = worker_for(given)
    async with serving(configured(tmp_path, given, restart_limit=10)) as models:
        keeper = await kept(models)
        await until(lambda: keeper.state is State.GIVEN_UP)
        assert keeper.restarts == 1  # what it says twice it would say for ever
        error = await refused(worker)
        assert reason in error.message
        assert (error.retryable, error.retry_after) == (False, None)
        assert str(path) not in error.message
        assert reason in (await worker.health()).detail


@pytest.mark.slow
async def test_where_the_data_folders_path_is_long(model, tmp_path):
    folder = tmp_path / ("deep" * 20) / ("er" * 40)
    folder.mkdir(parents=True)
    given = section(model)
    worker = LlamaCpp(given, folder)
    try:
        assert not (await worker.health()).ok
        async with serving(configured(folder, given)) as models:
            await loaded(models)
            assert len((await told(worker, ask("w1", max_tokens=4))).text.split()) == 4
    finally:
        await worker.aclose()


async def test_without_a_daemon_there_is_nobody(tmp_path, worker_for):
    error = await refused(worker_for(section(tmp_path / "m.gguf")))
    assert "not there" in error.message


async def test_while_it_is_loaded_calls_are_told_so(tmp_path, worker_for):
    """As llama.cpp answers then: it listens before it loads."""
    given = section(tmp_path / "m.gguf")
    files = llama_files.files(given, tmp_path)
    files.socket.parent.mkdir()
    body = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 503 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, files.socket)
    try:
        worker = worker_for(given)
        error = await refused(worker)
        assert (error.message, error.retryable, error.retry_after) == ("the model is being loaded", True, 1.0)
        health = await worker.health()
        assert (health.ok, health.detail) == (False, "the model is being loaded")
    finally:
        server.close()


async def test_the_reason_of_one_that_was_given_up_is_told(tmp_path, worker_for):
    given = section(tmp_path / "m.gguf")
    files = llama_files.files(given, tmp_path)
    files.note.parent.mkdir()
    llama_files.write(files.note, Note("given up", "killed by SIGKILL"))
    assert "killed by SIGKILL" in (await refused(worker_for(given))).message
    files.note.write_bytes(b"{")
    assert "not there" in (await refused(worker_for(given))).message


async def test_a_process_is_in_use_until_its_worker_is_closed(tmp_path):
    given = section(tmp_path / "m.gguf")
    files = llama_files.files(given, tmp_path)
    early = LlamaCpp(given, tmp_path)  # before the daemon has made the folder
    files.uses.parent.mkdir()
    assert llama_files.unused(files.uses)
    late = LlamaCpp(given, tmp_path)
    assert not llama_files.unused(files.uses)
    await refused(early)
    await late.aclose()
    assert not llama_files.unused(files.uses)
    await early.aclose()
    assert llama_files.unused(files.uses)


def test_what_is_started_with_something_else_is_another(tmp_path):
    model = tmp_path / "m.gguf"
    given = section(model)
    others = {"name": "b", "gguf": "b", "slots": 2, "context_tokens": 99, "threads": 9, "gpu_layers": 9}
    for key, value in others.items():
        assert llama_files.files(section(model, **{key: value}), tmp_path) != llama_files.files(given, tmp_path), key
    assert llama_files.files(section(model, concurrency=9), tmp_path) == llama_files.files(given, tmp_path)


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "find_spec", lambda _: None)
    with pytest.raises(WorkerUnavailable, match=r"headgate\[llama-cpp\]") as raised:
        LlamaCpp(section(tmp_path / "m.gguf"), tmp_path)
    assert raised.value.key == "kind"
