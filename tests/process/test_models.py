"""The supervisor's part in serving models: real processes follow a configuration."""

import asyncio
import os
import signal
from contextlib import aclosing

import pytest
from structlog.testing import capture_logs

from pipeline.process.counters import State
from tests.local_models import configured, kept, loaded, section, serving, tiny_gguf, until
from tests.process.daemon import alive
from tests.workers.helpers import ask, told
from workers import llama_files
from workers.errors import WorkerError
from workers.llama_cpp import LlamaCpp

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("model"))


async def test_added_changed_and_removed(model, tmp_path):
    one, two = section(model), section(model, name="two")
    wider = section(model, slots=7)
    async with serving(configured(tmp_path, one)) as models:
        first = await loaded(models)
        before = first.current
        models.follow(configured(tmp_path, one, two))
        await loaded(models, "two")
        assert first.current is before

        models.follow(configured(tmp_path, wider, two))
        await until(lambda: not alive(before.pid))
        await until(lambda: first not in models.keepers)
        await loaded(models)
        worker = LlamaCpp(wider, tmp_path)
        assert (await worker.health()).slots == 7
        await worker.aclose()

        models.follow(configured(tmp_path))
        await until(lambda: not models.keepers)
        assert {path.suffix for path in (tmp_path / llama_files.FOLDER).iterdir()} == {".uses"}


async def test_a_removed_one_finishes_its_calls(model, tmp_path):
    given = section(model)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        worker = LlamaCpp(given, tmp_path)
        async with aclosing(worker.generate(ask("w1", max_tokens=1500))) as answer:
            await anext(answer)
            models.follow(configured(tmp_path))
            await until(lambda: keeper.state is State.STOPPING)
            assert len((await told(worker, ask("w2", max_tokens=4))).text.split()) == 4  # one that waited in a shard
            async for _ in answer:
                pass
        assert alive(keeper.processes[0].pid)
        await worker.aclose()
        await until(lambda: not models.keepers)


async def test_one_that_is_used_for_too_long_is_killed(model, tmp_path):
    given = section(model)
    async with serving(configured(tmp_path, given, drain_timeout_ms=50)) as models:
        keeper = await loaded(models)
        worker = LlamaCpp(given, tmp_path)
        with capture_logs() as lines:
            models.follow(configured(tmp_path, drain_timeout_ms=50))
            await until(lambda: not models.keepers)
        assert [line["event"] for line in lines] == ["process_killed", "model_stopped"]
        assert keeper.task.done()
    await worker.aclose()


async def test_the_newest_wish_counts(model, tmp_path):
    """While the one before it still has a call."""
    given = section(model)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        worker = LlamaCpp(given, tmp_path)
        for slots in (2, 3, 5):
            models.follow(configured(tmp_path, section(model, slots=slots)))
        await until(lambda: keeper.state is State.STOPPING)
        assert models.keepers == [keeper]  # never two of a worker at once
        await worker.aclose()
        await until(lambda: keeper not in models.keepers)
        await loaded(models)
        newest = LlamaCpp(section(model, slots=5), tmp_path)
        assert (await newest.health()).slots == 5
        await newest.aclose()


async def test_what_was_given_up_is_tried_again_when_asked_for(model, tmp_path):
    path = tmp_path / "late.gguf"
    given = section(path)
    async with serving(configured(tmp_path, given, restart_limit=1)) as models:
        keeper = await kept(models)
        await until(lambda: keeper.state is State.GIVEN_UP)
        assert keeper.reason == "its gguf cannot be read: No such file or directory"
        models.revive()
        await until(lambda: keeper not in models.keepers)
        await until(lambda: (models.keepers or [keeper])[0].state is State.GIVEN_UP)
        path.symlink_to(model)
        models.revive()
        await until(lambda: [keeper.state for keeper in models.keepers] == [State.READY])
        running = models.keepers
        models.revive()
        assert models.keepers == running


async def test_stopped_while_it_loads(tmp_path):
    """It cannot even start to listen: a pipe that nobody writes to."""
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    async with serving(configured(tmp_path, section(path))) as models:
        keeper = await kept(models)
        await until(lambda: bool(keeper.processes))
        process = keeper.processes[0]
        await models.stop(0.5)
        assert not alive(process.pid)
        assert models.keepers == [keeper]


async def test_its_last_words_are_logged_and_are_the_reason(model, tmp_path):
    given = section(model)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        process = keeper.current
        os.kill(process.pid, signal.SIGSTOP)
        with llama_files.files(given, tmp_path).said.open("a") as said:
            said.write("ggml-cuda.cu:1: out of memory\n")
        with capture_logs() as lines:
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: keeper.restarts == 1)
        assert keeper.reason == "ggml-cuda.cu:1: out of memory"
        (line,) = [line for line in lines if line["event"] == "llama_cpp"]
        assert (line["worker"], line["log_level"]) == ("tiny", "error")


async def test_the_process_ends_with_its_supervisor(model, tmp_path):
    """Also when that is killed: the link is gone."""
    given = section(model)
    async with serving(configured(tmp_path, given)) as models:
        keeper = await loaded(models)
        worker = LlamaCpp(given, tmp_path)
        process = keeper.current
        assert process._link is not None
        process._link.close()
        await asyncio.sleep(0)
        assert alive(process.pid)  # shards may still finish what they have
        await worker.aclose()
        await until(lambda: not alive(process.pid))


async def test_what_a_killed_daemon_has_left_is_swept(tmp_path):
    folder = tmp_path / llama_files.FOLDER
    folder.mkdir()
    for name in ("a.sock", "a.json", "a.uses", "a.log", "a.new"):
        (folder / name).touch()
    async with serving(configured(tmp_path)) as models:
        models.sweep(tmp_path)
        assert not list(folder.iterdir())


async def test_two_workers_of_one_file_have_a_process_each(model, tmp_path):
    one, two = section(model), section(model, name="two")
    async with serving(configured(tmp_path, one, two)) as models:
        keepers = [await loaded(models), await loaded(models, "two")]
        assert len({keeper.current.pid for keeper in keepers}) == 2
        os.kill(keepers[0].current.pid, signal.SIGKILL)
        worker = LlamaCpp(two, tmp_path)
        assert (await told(worker, ask("w1", max_tokens=2))).text
        await worker.aclose()
        await until(lambda: keepers[0].restarts == 1)
        other = LlamaCpp(section(model, name="three"), tmp_path)
        with pytest.raises(WorkerError, match="not there"):
            await told(other, ask("w1"))
        await other.aclose()
