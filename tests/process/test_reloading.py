"""Two phases over parties that answer, refuse, keep silent, die, or come late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import LogCapture

from config.errors import ConfigError, Problem
from config.load import decode
from config.schema import Config
from pipeline.observe.layout import Counted
from pipeline.process import demand
from pipeline.process.control import ReloadFailed
from pipeline.process.link import Abort, Commit, Committed, Message, Prepare, Prepared
from pipeline.process.reloading import Reloader
from pipeline.process.version import Version
from tests.flows import config

WRONG = Problem("workers[0].api_key", "no environment variable KEY", "the secret in KEY")
OTHER = Problem("routes[0].template", "line 1: unexpected end", "a jinja2 template within the sandbox")


class Shard:
    """A process that does as it is told, in another turn of the event loop as a real one would."""

    def __init__(self, daemon: "Daemon", name: str, edition: int, problems: tuple[Problem, ...] = ()) -> None:
        self.name = name
        self.edition = edition
        self.ready = True
        self.retiring = False
        self.silent = False
        self.dies = False  # when it is told to run what it has prepared
        self.deaf = ""  # to messages of this kind
        self.problems = problems
        self.killed: str | None = None
        self.told: list[str] = []
        self.running: Config | None = None
        self.layout: list[Counted] = []  # that it was sent
        self._daemon = daemon
        self._prepared: tuple[int, Config] | None = None

    def send(self, message: Message) -> None:
        self.told.append(type(message).__name__)
        if not self.silent and type(message).__name__ != self.deaf:
            asyncio.get_running_loop().call_soon(self._receive, message)

    def kill(self, reason: str | None = None) -> None:
        self.killed = reason
        self.die()

    def die(self) -> None:
        self._daemon.shards.remove(self)
        self._daemon.reloader.gone(self)

    def _receive(self, message: Message) -> None:
        match message:
            case Prepare(number, data, layout):
                self.layout = layout
                self._prepared = (number, decode(data))
                self._daemon.reloader.heard(self, Prepared(number, list(self.problems)))
            case Commit() if self.dies:
                self.die()
            case Commit(number) if self._prepared is not None and self._prepared[0] == number:
                self.running = self._prepared[1]
                self._daemon.reloader.heard(self, Committed(number))
            case Abort():
                self._prepared = None


class Daemon:
    """The supervisor's part. `file` is what the next reading finds, or what is wrong with it."""

    def __init__(self, begun: Config, shards: int) -> None:
        self.file: Config | ConfigError = begun
        self.edition = 0
        self.born_with = begun
        self.refuses: ConfigError | None = None
        self.full: OSError | None = None
        self.layout = [demand.counted(begun)]
        self.rereads = 0
        self.shards: list[Shard] = []
        self.reloader = Reloader(Version.of(begun), self._read, lambda: self.shards, self)
        for number in range(shards):
            self.add(f"shard {number}")

    def add(self, name: str, edition: int | None = None, problems: tuple[Problem, ...] = ()) -> Shard:
        """One that is ready."""
        shard = Shard(self, name, self.edition if edition is None else edition, problems)
        self.shards.append(shard)
        self.reloader.joined(shard)
        return shard

    def prepare(self, config: Config) -> Any:
        if self.refuses is not None:
            raise self.refuses
        return config.server.deadline_ms

    def adopt(self, config: Config, prepared: Any) -> None:
        if self.full is not None:
            raise self.full
        assert prepared == config.server.deadline_ms
        self.edition += 1
        self.born_with = config
        self.layout = [*self.layout, demand.counted(config)]

    def reread(self) -> None:
        self.rereads += 1

    def _read(self) -> Config:
        if isinstance(self.file, ConfigError):
            raise self.file
        return self.file

    def nothing_changed(self, begun: Config) -> None:
        assert self.reloader.config is begun
        assert (self.born_with, self.edition) == (begun, 0)
        assert all(shard.running is None for shard in self.shards)


@asynccontextmanager
async def daemon(shards: int = 3, **server: Any) -> AsyncIterator[tuple[Daemon, Config, Config]]:
    """With the configuration that it began with, and another one in its file."""
    begun = config(server={"start_timeout_ms": 200, **server})
    one = Daemon(begun, shards)
    new = replace(begun, server=replace(begun.server, deadline_ms=1234))
    one.file = new
    try:
        yield one, begun, new
    finally:
        await one.reloader.aclose()


@pytest.fixture
def log() -> Any:
    capture = LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


async def test_a_change_is_in_force_everywhere_and_told(log):
    async with daemon() as (it, _, new):
        applied = await it.reloader.reload()
        assert [(c.path, c.before, c.after) for c in applied.changed] == [("server.deadline_ms", 300_000, 1234)]
        assert not applied.restart
        assert all(shard.running == new for shard in it.shards)
        assert (it.reloader.config, it.born_with, it.edition) == (new, new, 1)
        (line,) = [line for line in log if line["event"] == "reload_applied"]
        assert (line["changed"], line["restart"]) == (["server.deadline_ms"], [])


async def test_the_same_again_asks_nobody():
    async with daemon() as (it, begun, _):
        it.file = replace(begun)
        applied = await it.reloader.reload()
        assert (applied.changed, applied.restart) == ([], [])
        assert not any(shard.told for shard in it.shards)
        it.nothing_changed(begun)


async def test_what_needs_a_restart_is_named_and_kept():
    async with daemon() as (it, begun, new):
        it.file = replace(new, server=replace(new.server, port=1))
        applied = await it.reloader.reload()
        assert [change.path for change in applied.restart] == ["server.port"]
        assert all(s.running is not None and s.running.server.port == begun.server.port for s in it.shards)
        again = await it.reloader.reload()
        assert (again.changed, [change.path for change in again.restart]) == ([], ["server.port"])


async def test_one_shard_that_cannot_is_enough_for_none(log):
    async with daemon() as (it, begun, _):
        it.shards[1].problems = (WRONG,)
        it.shards[2].problems = (WRONG, OTHER)
        with pytest.raises(ConfigError) as refused:
            await it.reloader.reload()
        assert refused.value.problems == (WRONG, OTHER)  # each once
        await asyncio.sleep(0)
        assert all(shard.told == ["Prepare", "Abort"] for shard in it.shards)
        it.nothing_changed(begun)
        (line,) = [line for line in log if line["event"] == "reload_refused"]
        assert line["problems"] == [problem.line for problem in (WRONG, OTHER)]
        for shard in it.shards:
            shard.problems = ()
        assert (await it.reloader.reload()).changed  # the next try is a try of its own


async def test_a_file_that_is_wrong_reaches_no_shard():
    async with daemon() as (it, begun, _):
        it.file = ConfigError([WRONG])
        with pytest.raises(ConfigError):
            await it.reloader.reload()
        assert not any(shard.told for shard in it.shards)
        it.nothing_changed(begun)


async def test_the_supervisor_can_refuse_as_well():
    async with daemon() as (it, begun, _):
        it.refuses = ConfigError([WRONG])
        with pytest.raises(ConfigError):
            await it.reloader.reload()
        it.nothing_changed(begun)


async def test_a_supervisor_that_cannot_take_it_over_calls_it_off():
    async with daemon() as (it, begun, _):
        it.full = OSError(28, "No space left on device")
        with pytest.raises(ReloadFailed, match="No space left"):
            await it.reloader.reload()
        assert all(shard.told == ["Prepare", "Abort"] for shard in it.shards)
        it.nothing_changed(begun)


async def test_a_shard_that_keeps_silent_calls_it_off():
    async with daemon() as (it, begun, _):
        it.shards[1].silent = True
        with pytest.raises(ReloadFailed, match=r"shard 1 did not answer within 0\.2 s"):
            await it.reloader.reload()
        assert all(shard.told == ["Prepare", "Abort"] for shard in it.shards)
        it.nothing_changed(begun)


async def test_late_answers_to_an_earlier_try_do_not_count():
    async with daemon(2) as (it, _, new):
        late = it.shards[1]
        late.silent = True
        with pytest.raises(ReloadFailed):
            await it.reloader.reload()
        second = asyncio.create_task(it.reloader.reload())
        while late.told.count("Prepare") < 2:
            await asyncio.sleep(0)
        it.reloader.heard(late, Prepared(1, []))  # the first try's
        await asyncio.sleep(0.01)
        assert not second.done()
        it.reloader.heard(late, Prepared(2, []))
        await second
        assert it.reloader.config == new


async def test_a_shard_that_dies_before_it_answers_is_not_waited_for():
    async with daemon() as (it, _, new):
        dying = it.shards[1]
        dying.silent = True
        reload = asyncio.create_task(it.reloader.reload())
        while not dying.told:
            await asyncio.sleep(0)
        dying.die()
        await reload
        assert all(shard.running == new for shard in it.shards)


async def test_a_shard_that_dies_after_the_decision_is_not_waited_for(log):
    async with daemon(start_timeout_ms=60_000) as (it, _, new):
        it.shards[1].dies = True
        await asyncio.wait_for(it.reloader.reload(), 5)
        assert len(it.shards) == 2
        assert it.born_with == new
        assert not [line for line in log if line["event"] == "reload_late"]


async def test_a_shard_that_is_silent_after_the_decision_is_told_of(log):
    async with daemon() as (it, _, new):
        it.shards[1].deaf = "Commit"
        await it.reloader.reload()
        assert it.reloader.config == new
        assert [line["processes"] for line in log if line["event"] == "reload_late"] == ["shard 1"]


async def test_without_a_ready_shard_nothing_can_be_checked():
    async with daemon(1) as (it, begun, _):
        it.shards[0].ready = False
        with pytest.raises(ReloadFailed, match="no shard is ready"):
            await it.reloader.reload()
        it.nothing_changed(begun)
        it.shards[0].ready = True
        it.reloader.joined(it.shards[0])
        await asyncio.sleep(0.01)
        it.nothing_changed(begun)  # who asked was told


async def test_a_request_waits_until_a_shard_is_ready(log):
    async with daemon(1) as (it, begun, new):
        it.shards[0].ready = False
        for _ in range(3):
            it.reloader.request()
        async with asyncio.timeout(5):
            while not [line for line in log if line["event"] == "reload_put_off"]:
                await asyncio.sleep(0)
        it.nothing_changed(begun)
        it.shards[0].ready = True
        it.reloader.joined(it.shards[0])
        async with asyncio.timeout(5):
            while it.shards[0].running is None:
                await asyncio.sleep(0)
        assert it.reloader.config == new
        it.add("another")
        await asyncio.sleep(0.01)
        assert it.edition == 1  # once is enough
        assert [line["event"] for line in log].count("reload_put_off") == 1


async def test_a_request_is_not_lost_when_all_shards_die_at_once(log):
    async with daemon(2, start_timeout_ms=60_000) as (it, _, new):
        for shard in it.shards:
            shard.silent = True
        it.reloader.request()
        async with asyncio.timeout(5):
            while not all(shard.told for shard in it.shards):
                await asyncio.sleep(0)
            late = it.add("late")  # before the last one is dead
            for shard in it.shards[:2]:
                shard.die()
            while late.running is None:
                await asyncio.sleep(0)
        assert late.running == it.reloader.config == new
        assert not [line for line in log if line["event"] == "reload_failed"]


async def test_only_reading_the_file_brings_back_what_operators_had_set():
    async with daemon() as (it, begun, new):
        it.file = begun
        await it.reloader.apply(new)
        assert it.rereads == 0
        await it.reloader.reload()
        await it.reloader.reload()  # nothing is different
        assert it.rereads == 2
        it.file = ConfigError([WRONG])
        with pytest.raises(ConfigError):
            await it.reloader.reload()
        assert it.rereads == 2


async def test_what_is_wrong_is_in_the_log_as_people_are_shown_it(log):
    hinted = Problem("routes[0].worker", '"ehco"', "the name of a worker", "echo", "pipeline.toml:12")
    async with daemon() as (it, _, _):
        it.file = ConfigError([hinted, *[replace(WRONG, found="x" * 10_000)] * 1000])
        with pytest.raises(ConfigError):
            await it.reloader.reload()
    (line,) = [line for line in log if line["event"] == "reload_refused"]
    first, *_, last = line["problems"]
    assert first == 'routes[0].worker: found "ehco"; expected the name of a worker; nearest echo (pipeline.toml:12)'
    assert last == "and 981 more"
    assert len("".join(line["problems"])) < 10_000


async def test_a_process_that_finishes_for_another_is_left_alone():
    async with daemon() as (it, _, _):
        old = it.shards[0]
        old.retiring = True
        await it.reloader.reload()
        assert not old.told


async def test_one_that_got_ready_while_the_others_were_asked_is_brought_up():
    async with daemon(2) as (it, _, new):
        slow = it.shards[0]
        slow.silent = True
        reload = asyncio.create_task(it.reloader.reload())
        while not slow.told:
            await asyncio.sleep(0)
        late = it.add("late")
        slow.silent = False
        it.reloader.heard(slow, Prepared(1, []))
        slow._prepared = (1, new)
        await reload
        await asyncio.sleep(0)
        assert late.running == new


async def test_one_that_started_with_what_was_in_force_before_is_brought_up():
    async with daemon(1) as (it, begun, new):
        await it.reloader.reload()
        late = it.add("late", edition=0)
        await asyncio.sleep(0)
        assert late.running == new
        it.file = begun
        await it.reloader.reload()
        much_too_late = it.add("much too late", edition=0)
        await asyncio.sleep(0)
        assert much_too_late.running == begun
        assert much_too_late.layout == it.layout  # all three steps, of which it made one
        assert not much_too_late.killed


async def test_one_that_cannot_run_it_is_killed_also_while_the_next_change_is_asked():
    async with daemon(1, start_timeout_ms=60_000) as (it, begun, _):
        await it.reloader.reload()
        late = it.add("late", edition=0, problems=(WRONG,))
        it.file = begun
        next_change = asyncio.create_task(it.reloader.reload())  # asks the late one too, before it has answered
        it.shards[0].silent = True
        async with asyncio.timeout(5):
            while not late.killed:
                await asyncio.sleep(0)
        it.shards[0].die()
        with pytest.raises(ReloadFailed):
            await next_change


async def test_one_that_cannot_run_what_is_in_force_is_killed_for_the_next_one():
    async with daemon(1) as (it, _, _):
        await it.reloader.reload()
        late = it.add("late", edition=0, problems=(WRONG,))
        await asyncio.sleep(0)
        assert late.killed is not None
        assert WRONG.path in late.killed


async def test_one_change_at_a_time():
    async with daemon() as (it, begun, new):
        first = asyncio.create_task(it.reloader.reload())
        await asyncio.sleep(0)
        with pytest.raises(ReloadFailed, match="under way"):
            await it.reloader.apply(begun)
        await first
        assert it.reloader.config == new


async def test_requests_wait_for_each_other_and_the_last_file_counts(log):
    async with daemon() as (it, begun, new):
        it.shards[0].silent = True
        first = asyncio.create_task(it.reloader.reload())
        while not it.shards[0].told:
            await asyncio.sleep(0)
        for _ in range(5):
            it.reloader.request()
        it.file = replace(new, server=replace(new.server, deadline_ms=99))
        it.shards[0].silent = False
        with pytest.raises(ReloadFailed):  # it was silent when it was asked
            await first
        async with asyncio.timeout(5):
            while it.reloader.config is begun:
                await asyncio.sleep(0.01)
        assert it.reloader.config.server.deadline_ms == 99
        assert it.edition == 1


async def test_a_request_for_a_file_that_is_wrong_is_told_in_the_log_only(log):
    async with daemon() as (it, begun, _):
        it.file = ConfigError([WRONG])
        it.reloader.request()
        async with asyncio.timeout(5):
            while not [line for line in log if line["event"] == "reload_refused"]:
                await asyncio.sleep(0)
        it.nothing_changed(begun)


async def test_a_change_can_come_without_a_file_and_a_reload_takes_it_back():
    async with daemon() as (it, begun, new):
        it.file = begun
        assert [change.path for change in (await it.reloader.apply(new)).changed] == ["server.deadline_ms"]
        assert [change.after for change in (await it.reloader.reload()).changed] == [300_000]


async def test_a_template_file_with_another_text_is_a_change(tmp_path):
    file = tmp_path / "prompt.j2"
    file.write_text("Be brief.")
    begun = config(routes=[{"name": "r", "worker": "echo", "template_file": str(file)}])
    it = Daemon(begun, 2)
    file.write_text("Be verbose.")
    (change,) = (await it.reloader.reload()).changed
    assert change.path == "routes[r].template_file"
    assert all(shard.running is not None and shard.running.routes[0].template == "Be verbose." for shard in it.shards)


async def test_a_secret_file_with_another_secret_is_a_change(tmp_path):
    file = tmp_path / "secret"
    file.write_text("one")
    worker = {"name": "w", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": f"file:{file}"}
    it = Daemon(config(workers=[worker]), 1)
    assert not (await it.reloader.reload()).changed
    file.write_text("two")
    (change,) = (await it.reloader.reload()).changed
    assert change.path == "workers[w].api_key"
    assert "two" not in repr(change)


async def test_a_first_route_that_retrieves_needs_a_restart():
    def retrieving(collection: str | None) -> Config:
        return config(
            collections=[{"name": "docs"}],
            routes=[{"name": "r", "worker": "echo", "collection": collection}],
            workflows={"enabled": False},  # whose steps may use any collection
        )

    it = Daemon(retrieving(None), 1)
    it.file = retrieving("docs")
    with pytest.raises(ConfigError, match="a restart") as refused:
        await it.reloader.reload()
    assert refused.value.problems[0].path == "routes[0].collection"
