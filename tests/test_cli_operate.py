"""`headgate status`, `workers`, `routes`, `drain`, `reload`, `log-level`: against the admin API on real sockets, and
against a real daemon."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console, RenderableType
from structlog.testing import capture_logs

from pipeline.cli import main
from pipeline.core.outcomes import Place, Reason
from pipeline.observe.layout import REASONS
from pipeline.observe.overview import ReplicaFigures, WorkerFigures
from pipeline.observe.usage import Counts
from pipeline.operate.changes import lines
from pipeline.operate.tables import duration, status, workers
from pipeline.operate.usage import table as usage_table
from pipeline.process.admin_types import (
    DaemonStatus,
    ProcessStatus,
    Share,
    UsageFigures,
    UsageRow,
    UsageStatus,
    WorkerStatus,
)
from pipeline.process.control import Change, ReloadFailed
from pipeline.process.counters import State
from tests.http import serving as serving_prompts
from tests.process.daemon import ROOT, chat, configured, serving
from tests.process.operators import DEFAULTS, HA, Operator, config, operated

COMMAND = Path(sys.executable).parent / "headgate"
CONFIG = config(workers=DEFAULTS["workers"][:2])


@contextmanager
def desk(folder: Path, **sections):
    """An open desk on an event loop of its own, in a data folder that `pipeline.toml` names."""
    (folder / "data").mkdir()
    (folder / "pipeline.toml").write_text(f'[server]\ndata_dir = "{folder / "data"}"\n')
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Operator] = []

    async def serve() -> None:
        with capture_logs():
            await open_desk()

    async def open_desk() -> None:
        async with operated(folder / "data", config(**sections)) as operator:
            found.append(operator)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(5)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(5)
        loop.close()


@pytest.fixture
def operator(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "pipeline.toml"))
    monkeypatch.delenv("HEADGATE_ADMIN_TOKEN", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with desk(tmp_path) as operator:
        yield operator


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=given, catch_exceptions=False)


def drawn(what: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
    console.print(what, crop=False)
    return console.file.getvalue()


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.stderr
    return [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]


class TestShowing:
    def test_status(self, operator):
        operator.memory.seats[1].load = 1234
        shown = rows(run("status"))
        assert shown[0][0] == "Headgate 1.2.3 serves on http://127.0.0.1:8080, for 5.0 s"
        assert shown[1][0] == f"admin API on {operator.desk.address}"
        assert shown[2][0] == "0 requests"
        assert ["process", "state", "pid", "up", "restarts", "requests", "pulse"] in shown
        assert any(row[:2] == ["shard 1", "ready"] and "1,234" in row for row in shown)
        assert ["inference", "0", "0", "0", "0", "0"] in shown

    def test_one_request_is_one(self):
        for requests, text in (
            ({"offered": 1}, "1 request: 1 open"),
            ({"offered": 1, "completed": 1}, "1 request: 1 completed"),
            ({"offered": 1200, "shed": 1199}, "1,200 requests: 1,199 shed, 1 open"),
        ):
            assert text in drawn(status(DaemonStatus("1", "http://x", False, 1.0, [], requests), []))

    def test_why_a_process_was_given_up(self):
        why = "its gguf is no GGUF file: it begins with b'<htm'"
        processes = [ProcessStatus("model local", "given up", 0, 1, 0.0, reason=why)]
        shown = drawn(status(DaemonStatus("1", "http://x", False, 1.0, processes, {}), []))
        assert f"\nmodel local was given up: {why}\n" in shown

    def test_a_shard_whose_loop_does_not_turn_is_not_just_ready(self, operator):
        slot = operator.memory.seats[1]
        for pulse, state in ((0.9, "ready"), (4.84, "ready, silent for 4.8 s"), (75.0, "ready, silent for 1 min 15 s")):
            slot.pulse = pulse
            row = next(row for row in rows(run("status")) if row[0] == "shard 1")
            assert row[1] == state
            assert row[-1] == f"{1000 * pulse:,.0f} ms"
        slot.state = State.STOPPING
        assert "silent" not in run("status").stdout

    def test_status_for_programs_is_what_the_api_says(self, operator):
        answer = json.loads(run("status", "--json").stdout)
        assert [process["name"] for process in answer["processes"]] == ["supervisor", "shard 0", "shard 1"]

    def test_workers_with_the_routes_that_use_them(self, operator):
        shown = rows(run("workers"))
        assert shown[0] == ["worker", "kind", "calls", "waiting", "wait", "429/503", "routes"]
        assert ["echo", "echo", "0 of 0", "0", "0.00 s", "0", "echo, both (3)"] in shown
        assert ["a/big:model.v1", "openai", "none"] in shown
        assert json.loads(run("workers", "--json").stdout)[2]["settings"]["headers"] == {"X-Team": "***"}

    def test_replicas_are_shown_where_one_is_not_well(self, operator):
        layout = operator.control.ledger.layout
        replica = layout.workers["echo"].replicas["0"]
        block = operator.memory.blocks[0]
        for cell, value in zip(replica, (1, 1, 2, 0, 1200, 6), strict=True):
            block[cell] = value
        assert "circuit" not in run("workers").stdout
        block[replica.state], block[replica.reopens] = 3, 2_500_000_000
        row = ["echo", "0", "open", "well", "2", "1,200", "6", "in 2.5 s"]
        for command in ("workers", "status"):
            shown = rows(run(command))
            assert ["worker", "replica", "circuit", "last look", "running", "calls", "failed", "next try"] in shown
            assert row in shown
        for state, reopens, said in (
            (3, 40_000_000, "next request"),
            (3, 0, "next request"),
            (2, 300_000_000, "under way"),
            (2, 0, "next request"),
        ):
            block[replica.state], block[replica.reopens] = state, reopens
            assert next(row for row in rows(run("workers"))[::-1] if row[0] == "echo")[-1] == said
        block[replica.state], block[replica.healthy], block[replica.reopens] = 1, 0, 0
        assert ["echo", "0", "closed", "failed", "2", "1,200", "6"] in rows(run("workers"))

    def test_of_replicas_only_those_are_shown_that_are_several_or_not_well(self):
        def worker(name, *states):
            replicas = [ReplicaFigures(str(at), state, True, 0, 0, 0, 0.0) for at, state in enumerate(states)]
            figures = WorkerFigures(1, 0, {}, 0.0, 0.0, False, 0, 0, 0, replicas)
            return WorkerStatus(name, "openai", False, [], {}, figures)

        shown = drawn(workers([worker("one", "closed"), worker("two", "closed", "closed"), worker("three", "open")]))
        assert re.findall(r"^(\w+) +(\d) ", shown, re.MULTILINE) == [("two", "0"), ("two", "1"), ("three", "0")]
        assert "circuit" not in drawn(workers([worker("one", "closed")]))

    @pytest.mark.parametrize("width", [40, 62, 78])
    def test_addresses_stay_whole_in_a_narrow_terminal(self, width):
        address = "inference-gpu-node-17.example.internal:8000/v1"
        replicas = [ReplicaFigures(f"{address}/{at}", "open", True, 12, 1_234_567, 89, 2.5) for at in range(2)]
        routes = [Share(f"a-route-of-some-length-{at}", 1.0) for at in range(3)]
        figures = WorkerFigures(1, 0, {}, 0.0, 0.0, False, 0, 0, 0, replicas)
        lines = drawn(workers([WorkerStatus("large-model", "openai", False, routes, {}, figures)]), width).splitlines()
        apart = "\n" if width < 60 else "  "
        assert all(f"\nlarge-model{apart}{address}/{at}\n" in "\n".join(lines) for at in range(2))
        assert all(len(line) <= width for line in lines if address not in line)
        words = " ".join(lines).split()
        assert {"a-route-of-some-length-0,", "1,234,567", "89"} <= set(words)

    def test_usage_by_whatever_is_asked_for(self, operator):
        assert "No request has reached a worker yet." in run("usage").stdout
        table = operator.control.used
        table.of(("alice", "r1", "w")).add(Counts(3, 1200, 40, 100, 7))
        table.of(("bob", "r1", "w")).add(Counts(1, 5, 5, 0, 0, 1, 10))
        table.of(("alice", "r2", "w")).add(Counts(1, 2, 1))
        shown = rows(run("usage", "--by", "key"))
        assert shown[0] == ["Since the daemon's start, 5.0 s ago"]
        columns = ["requests", "prompt", "cached", "completion", "reasoning", "of which estimated"]
        assert shown[2] == ["key", *columns]
        assert shown[3:] == [
            ["alice", "4", "1,202", "100", "41", "7", "0"],
            ["bob", "1", "5", "0", "5", "0", "10"],
            ["total", "5", "1,207", "100", "46", "7", "10"],
        ]
        assert rows(run("usage"))[2][:3] == ["key", "route", "worker"]
        assert [row[:2] for row in rows(run("usage", "--by", "worker", "--by", "route"))[2:4]] == [
            ["route", "worker"],
            ["r1", "w"],
        ]
        answer = json.loads(run("usage", "--by", "route", "--json").stdout)
        assert [(row["route"], row["figures"]["prompt_tokens"]) for row in answer["rows"]] == [("r1", 1205), ("r2", 2)]
        assert set(answer["rows"][0]) == {"route", "figures"}
        assert answer["total"]["estimated_requests"] == 1

    def test_usage_in_a_narrow_terminal(self):
        counts = UsageFigures(12_345, 123_456_789, 23_456_789, 0, 0, 0, 0)
        row = UsageRow(counts, "a-key-of-thirty-two-characters-x", "documents-question-answering", "large-model")
        status = UsageStatus(5.0, [row], counts)
        lines = drawn(usage_table(status, ["key", "route", "worker"]), 80).splitlines()
        assert lines[2:] == [
            "key  route  worker",
            "    reqs       prompt      compl.",
            "a-key-of-thirty-two-characters-x  documents-question-answering  large-model",
            "  12,345  123,456,789  23,456,789",
        ]
        lines = drawn(usage_table(status, ["worker"]), 80).splitlines()
        assert [re.split(r"\s{2,}", line.strip()) for line in lines[2:]] == [
            ["worker", "requests", "prompt", "cached", "completion", "reasoning"],
            ["large-model", "12,345", "123,456,789", "0", "23,456,789", "0"],
        ]

    def test_no_line_is_broken_for_a_program(self, operator, monkeypatch):
        monkeypatch.delenv("COLUMNS")
        operator.control.used.of(("k" * 90, "r" * 90, "w" * 90)).add(Counts(3, 1200, 40, 100, 7))
        assert rows(run("usage"))[3][:4] == ["k" * 90, "r" * 90, "w" * 90, "3"]

    def test_requests_that_no_backend_could_be_called_for_are_told_apart(self, operator):
        """And those with a route's own words."""
        layout, block = operator.control.ledger.layout, operator.memory.blocks[0]
        route = layout.routes["both"]

        def ended(place, reason, number):
            block[route.outcomes + place * len(REASONS) + REASONS.index(reason)] = number

        block[route.offered] = block[layout.opened] = 10
        ended(Place.INGRESS, Reason.CIRCUIT_OPEN, 4)
        ended(Place.INGRESS, Reason.QUEUE_FULL, 1)
        ended(Place.STREAM, Reason.DONE, 5)
        block[route.static] = 3
        shown = rows(run("routes"))
        columns = ["offered", "open", "completed", "static", "shed", "circuit open", "failed", "other"]
        assert shown[0] == ["route", "workers", *columns]
        assert ["both", "echo (3), spare", "10", "0", "5", "3", "1", "4", "0", "0"] in shown
        told = "10 requests: 5 completed, 1 shed, 4 refused as no backend could be called"
        assert told in run("status").stdout
        assert json.loads(run("status", "--json").stdout)["requests"]["shed"] == 5

    def test_routes(self, operator):
        assert ["both", "echo (3), spare", *["0"] * 8] in rows(run("routes"))
        assert [route["name"] for route in json.loads(run("routes", "--json").stdout)] == ["echo", "both"]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "0.0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3600 * 3 + 725, "3 h 12 min"), (90_000, "1 d 01 h")],
    )
    def test_durations(self, seconds, text):
        assert duration(seconds) == text


class TestChanging:
    def test_a_worker_comes_changes_drains_and_goes(self, operator, tmp_path):
        file = tmp_path / "worker.toml"
        file.write_text('[[workers]]\nname = "team/x"\nkind = "echo"\ntokens = 4\n')
        added = run("workers", "add", str(file))
        assert added.exit_code == 0
        assert added.stdout.startswith('workers[team/x]: nothing → {kind = "echo", name = "team/x", tokens = 4}')
        assert "In force until the configuration is read again" in added.stdout
        swapped = run("workers", "swap", "team/x", "-", given='{"kind": "echo", "tokens": 5}')
        assert swapped.stdout.splitlines()[0] == "workers[team/x].tokens: 4 → 5"
        assert run("workers", "drain", "team/x").stdout.splitlines()[0] == "workers[team/x].drain: false → true"
        assert rows(run("workers"))[-1][0] == "team/x (draining)"
        assert run("workers", "undrain", "team/x").exit_code == 0
        assert run("drain", "--worker", "team/x").stdout.splitlines()[0] == "workers[team/x].drain: false → true"
        assert run("workers", "remove", "team/x").exit_code == 0
        assert [worker.name for worker in operator.control.config.workers] == ["echo", "spare", "a/big:model.v1"]

    def test_a_worker_without_a_header_of_its_own(self, operator, tmp_path):
        assert run("workers", "add", "-", given='name = "plain"\nkind = "echo"\n').exit_code == 0
        again = run("workers", "add", "-", given='name = "plain"\nkind = "echo"\n')
        assert (again.exit_code, again.stderr) == (1, "Error: There is a worker 'plain' already\n")

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("", "table has no name"),
            ("name = 3\nkind = 'echo'", "table has no name"),
            ("name = ", "is neither TOML nor JSON"),
            ('{"name": ', "is neither TOML nor JSON"),
            ("[" * 100_000, "is neither TOML nor JSON"),
            ("\x00", "is neither TOML nor JSON"),
            ("[[workers]]\nname='a'\n[[workers]]\nname='b'", "must hold one [[workers]] table"),
            ("[[workers]]\nname='a'\n[[routes]]\nname='b'", "must hold one [[workers]] table"),
            ("workers = 3", "must hold one [[workers]] table"),
            ("x" * (1 << 21), "is larger than 1,048,576 bytes"),
        ],
        ids=lambda value: value[:12],
    )
    def test_what_is_no_worker(self, operator, given, told):
        result = run("workers", "add", "-", given=given)
        assert result.exit_code == 1
        assert told in result.stderr
        assert operator.control.applied == []

    def test_weights(self, operator):
        result = run("routes", "weights", "both", "spare=2.5", "a/big:model.v1=1")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[:-1] == [
            "routes[both].workers:",
            '    "spare": 1 → 2.5',
            '    "a/big:model.v1": nothing → 1',
        ]
        shares = {share.worker: share.weight for share in operator.control.config.routes[1].workers}
        assert shares == {"echo": 3, "spare": 2.5, "a/big:model.v1": 1}
        out = run("routes", "weights", "both", "spare=out")
        assert out.stdout.splitlines()[1:-1] == ['    "spare": 2.5 → nothing']
        assert [share.worker for share in operator.control.config.routes[1].workers] == ["echo", "a/big:model.v1"]

    @pytest.mark.parametrize("share", ["echo", "=1", "echo=", "echo=heavy", ""])
    def test_what_is_no_weight(self, operator, share):
        result = run("routes", "weights", "both", share)
        assert result.exit_code == 2
        assert operator.control.applied == []

    def test_a_refused_change_says_what_check_would(self, operator):
        result = run("workers", "add", "-", given='name = "n"\nkind = "echo"\ntokenz = 3\nseed = -1\n')
        assert result.exit_code == 2
        assert "workers[n].tokenz\n    found     an unknown key\n" in result.stderr
        assert "    nearest   tokens\n" in result.stderr
        assert "workers[n].seed\n" in result.stderr
        assert result.stderr.endswith("2 problems\n")
        assert run("routes", "weights", "both", "echo=-1").exit_code == 2

    @pytest.mark.parametrize(
        "command",
        [
            "workers drain nope",
            "workers undrain nope",
            "workers remove nope",
            "drain --worker nope",
            "workers swap nope -",
        ],
    )
    def test_what_is_not_there_is_named_with_what_is(self, operator, command):
        result = run(*command.split(), given='kind = "echo"')
        assert result.exit_code == 1
        assert "no worker" in result.stderr
        assert operator.control.applied == []

    def test_a_worker_in_use(self, operator):
        result = run("workers", "remove", "spare")
        assert (result.exit_code, result.stderr) == (1, 'Error: The worker "spare" is used by these routes: both\n')
        assert run("workers", "remove", "spare", "--force").exit_code == 0

    @pytest.mark.parametrize("name", ["'other'", "3"])
    def test_a_swap_keeps_the_name(self, operator, name):
        result = run("workers", "swap", "spare", "-", given=f"name = {name}\nkind = 'echo'\n")
        told = f"a swap keeps the worker's name, 'spare'; in standard input it is {name}: leave it out there"
        assert (result.exit_code, result.stderr) == (1, f"Error: {told}\n")
        assert operator.control.applied == []
        same = run("workers", "swap", "spare", "-", given="name = 'spare'\nkind = 'echo'\ntokens = 4\n")
        assert same.stdout.splitlines()[0] == "workers[spare].tokens: 3 → 4"

    def test_what_is_too_wide_stands_on_lines_of_its_own(self, operator, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        table = HA | {"name": "a-worker", "model": "a-model-with-a-name", "concurrency": 7}
        entries = [
            'kind = "openai"',
            'name = "a-worker"',
            "concurrency = 7",
            'base_url = "http://127.0.0.1:9/v1"',
            'model = "a-model-with-a-name"',
            'api_key = "env:KEY"',
        ]
        added = run("workers", "add", "-", given=json.dumps(table)).stdout.splitlines()
        assert added[:3] == ["workers[a-worker]:", "    nothing", f"  → {entries[0]}"]
        assert added[3:-1] == [f"    {entry}" for entry in entries[1:]]
        removed = run("workers", "remove", "a-worker").stdout.splitlines()
        assert removed[:-1] == ["workers[a-worker]:", *(f"    {entry}" for entry in entries), "  → nothing"]
        monkeypatch.setenv("COLUMNS", "300")
        assert len(run("workers", "add", "-", given=json.dumps(table)).stdout.splitlines()) == 2

    def test_a_reload_says_that_it_is_done_where_the_replacement_is_not(self, operator):
        operator.control.file = config(logging={"level": "debug"})
        operator.control.unreplaceable = ReloadFailed("the shards are being replaced already")
        result = run("reload", "--replace")
        told = "the reload is done, but not the replacement: the shards are being replaced already"
        assert (result.exit_code, result.stderr) == (1, f"Error: {told}\n")
        assert result.stdout == 'logging.level: "info" → "debug"\n'

    def test_reload_says_what_is_different_and_what_has_to_wait(self, operator):
        operator.control.file = config(server={"port": 9000}, logging={"level": "debug"})
        result = run("reload")
        assert result.stdout.splitlines() == [
            'logging.level: "info" → "debug"',
            "Not in force before a restart:",
            "server.port: 8080 → 9000",
        ]
        assert run("workers", "drain", "echo").exit_code == 0
        assert run("reload", "--replace").stdout.splitlines()[0] == "workers[echo].drain: true → false"
        assert operator.control.calls[-2:] == ["reload", "replace"]

    def test_a_reload_that_a_shard_cannot_do(self, operator):
        operator.control.failure = ReloadFailed("shard 1 did not answer; nothing has changed")
        result = run("reload")
        assert (result.exit_code, result.stderr) == (1, "Error: shard 1 did not answer; nothing has changed\n")

    def test_drain_and_log_level(self, operator):
        assert run("log-level", "debug").exit_code == 0
        assert run("log-level", "loud").exit_code == 2
        assert run("drain").exit_code == 0
        assert operator.control.calls == ["level debug", "drain"]


class TestLines:
    def test_weights_that_differ_a_little(self):
        before, after = (
            [{"worker": "a", "weight": weight}, {"worker": "b", "weight": 1.0}] for weight in (1e7, 1e7 + 1)
        )
        assert lines(Change("p", before, after), 80) == ["p:", '    "a": 10000000 → 10000001']

    def test_only_another_order(self):
        before = [{"worker": "a", "weight": 1.0}, {"worker": "b", "weight": 1.0}]
        shown = lines(Change("p", before, before[::-1]), 40)
        assert shown == [
            "p:",
            '    {worker = "a", weight = 1.0}',
            '    {worker = "b", weight = 1.0}',
            '  → {worker = "b", weight = 1.0}',
            '    {worker = "a", weight = 1.0}',
        ]

    def test_what_looks_like_weights_and_is_more(self):
        before, after = [{"worker": "a", "weight": 1.0, "x": 1}], [{"worker": "a", "weight": 1.0, "x": 2}]
        assert "x = 2" in lines(Change("p", before, after), 200)[0]

    def test_a_long_text_is_not_broken(self):
        assert lines(Change("p", "a" * 90, None), 80) == ["p:", f'    "{"a" * 90}"', "  → nothing"]

    def test_lists(self):
        short = Change("p", ["a"], [])
        assert lines(short, 80) == ['p: ["a"] → []']
        assert lines(Change("p", ["a" * 30, "b" * 30], []), 50) == [
            "p:",
            f'    "{"a" * 30}"',
            f'    "{"b" * 30}"',
            "  → []",
        ]


class TestReaching:
    def test_nobody_there(self, tmp_path, monkeypatch):
        (tmp_path / "pipeline.toml").write_text(f'[server]\ndata_dir = "{tmp_path}"\n')
        for command in ("status", "workers", "routes", "drain", "reload"):
            result = run(command, "--config", str(tmp_path / "pipeline.toml"))
            assert result.exit_code == 1
            assert f"no daemon answers at {tmp_path}/supervisor.sock: start one with" in result.stderr
        result = run("status", "--url", "http://127.0.0.1:1")
        assert (result.exit_code, result.stderr) == (
            1,
            "Error: nothing answers at http://127.0.0.1:1: Connection refused\n",
        )

    def test_a_configuration_that_is_being_mended_is_no_obstacle(self, operator, tmp_path):
        with (tmp_path / "pipeline.toml").open("a") as file:
            file.write('port = "eighty"\n[[routes]]\nworker = 3\n')
        assert run("status").exit_code == 0
        assert run("workers", "--config", str(tmp_path / "nowhere.toml")).exit_code == 2

    def test_the_environment_overrides_the_folder(self, operator, tmp_path, monkeypatch):
        monkeypatch.setenv("HEADGATE__SERVER__DATA_DIR", str(tmp_path / "elsewhere"))
        assert f"{tmp_path}/elsewhere/supervisor.sock" in run("status").stderr
        monkeypatch.setenv("HEADGATE__SERVER__DATA_DIR", str(tmp_path / "data"))
        assert run("status").exit_code == 0

    def test_options_before_or_behind_the_subcommand(self, operator, monkeypatch):
        monkeypatch.setenv("HEADGATE_CONFIG", "/nowhere")
        assert run("workers", "--url", operator.desk.address, "drain", "echo").exit_code == 0
        assert run("workers", "undrain", "echo", "--url", operator.desk.address + "/").exit_code == 0

    def test_the_token(self, tmp_path, monkeypatch):
        monkeypatch.setenv("THE_TOKEN", "right")
        monkeypatch.delenv("HEADGATE_ADMIN_TOKEN", raising=False)
        with desk(tmp_path, admin={"port": 0, "token": "env:THE_TOKEN"}) as operator:
            url = ["--url", operator.desk.address]
            missing = run("status", *url)
            assert missing.exit_code == 1
            assert "put it into the environment as HEADGATE_ADMIN_TOKEN" in missing.stderr
            monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "wrong")
            assert "does not know the token in HEADGATE_ADMIN_TOKEN" in run("status", *url).stderr
            monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "right")
            assert run("status", *url).exit_code == 0

    def test_tls_where_there_is_none(self, operator):
        result = run("status", "--url", operator.desk.address.replace("http", "https"))
        assert result.exit_code == 1
        assert "(wrong version number): if it does not use TLS, ask it with --url http://…" in result.stderr

    def test_a_token_does_not_travel_in_the_open(self, monkeypatch):
        monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "right")
        result = run("status", "--url", "http://192.0.2.1:9901")
        assert result.exit_code == 1
        assert "would travel in the open" in result.stderr

    def test_tls(self, tmp_path, monkeypatch, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tls")
        certificate, key = folder / "cert.pem", folder / "key.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=headgate"
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=20)
        section = {"port": 0, "tls_certificate": str(certificate), "tls_key": str(key)}
        with desk(tmp_path, admin=section) as operator:
            url = ["--url", operator.desk.address]
            untrusted = run("status", *url)
            assert untrusted.exit_code == 1
            assert "--cacert" in untrusted.stderr
            assert run("status", *url, "--cacert", str(certificate)).exit_code == 0
            plain = run("status", "--url", operator.desk.address.replace("https", "http"))
            assert "did not answer as it should" in plain.stderr
            assert "if it uses TLS, ask it with --url https://…" in plain.stderr
            assert "cannot read certificates" in run("status", *url, "--cacert", str(folder / "no")).stderr

    @pytest.mark.parametrize(
        "url", ["localhost:9901", "ftp://x", "http://", "http://x:99999", "http://u:p@x", "http://x/v1"]
    )
    def test_what_is_no_address(self, url):
        result = run("status", "--url", url)
        assert result.exit_code == 1
        assert "expected https://HOST:PORT" in result.stderr

    async def test_where_prompts_go_is_not_the_admin_api(self, tmp_path):
        async with serving_prompts(CONFIG) as server:
            url = f"http://127.0.0.1:{server.port}"
            for command in (["status"], ["reload"], ["workers", "add", "-"]):
                result = await asyncio.to_thread(run, *command, "--url", url, given='name = "x"\nkind = "echo"')
                told = f"{url} is where prompts go, not the admin API: that has an address of its own"
                assert (result.exit_code, told in result.stderr) == (1, True), result.stderr

    async def test_somebody_else_answers(self, tmp_path):
        async def other(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        result = await asyncio.to_thread(run, "workers", "--url", url)
        assert result.exit_code == 1
        assert "is of another version" in result.stderr
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_a_terminal(tmp_path, columns, monkeypatch):
    with desk(tmp_path, routes=[*DEFAULTS["routes"], {"name": "a-third-one", "worker": "echo"}]) as operator:
        operator.memory.seats[0].pulse = 3600.0  # silent, in the longest words
        for command in ("status", "workers", "routes"):
            leader, follower = pty.openpty()
            environ = os.environ | {
                "COLUMNS": str(columns),
                "TERM": "xterm",
                "HEADGATE_CONFIG": str(tmp_path / "pipeline.toml"),
            }
            with subprocess.Popen([str(COMMAND), command], stdout=follower, stderr=follower, env=environ) as process:
                os.close(follower)
                shown = b""
                while True:
                    try:
                        shown += os.read(leader, 65_536)
                    except OSError:
                        break
                assert process.wait(20) == 0
            os.close(leader)
            lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
            assert max(map(len, lines)) <= columns, command
            if command == "workers":
                assert any("a/big:model.v1" in line for line in lines), "names can be copied"
                assert {"echo,", "both", "(3),", "a-third-one"} <= {word for line in lines for word in line.split()}, (
                    "nothing is cut off"
                )


@pytest.mark.slow
async def test_watch_goes_on_until_it_is_interrupted(tmp_path):
    with desk(tmp_path) as operator:
        process = await asyncio.create_subprocess_exec(
            str(COMMAND), "status", "--watch", "--json", "--url", operator.desk.address, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(20):
            pictures = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert [picture["version"] for picture in pictures] == ["1.2.3", "1.2.3"]
        process.terminate()
        await process.wait()


@pytest.mark.slow
async def test_a_real_daemon_is_watched_changed_and_ended(tmp_path):
    """The whole way: command, socket, supervisor, shards."""
    file = configured(tmp_path, server="shards = 2")

    async def headgate(*arguments: str, given: bytes = b"") -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(str(COMMAND), *arguments, "--config", str(file)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate(given)
        return process.returncode, out.decode()

    async with serving(file) as daemon:
        shown = json.loads((await headgate("status", "--json"))[1])
        assert [process["shard"] for process in shown["processes"]] == [None, 0, 1]
        code, out = await headgate("workers", "add", "-", given=b'name = "second"\nkind = "echo"\ntokens = 3\n')
        assert code == 0, out
        code, out = await headgate("routes", "weights", "echo", "second=1", "echo=0")
        assert code == 0, out
        assert await _answers(daemon.address, 6) == {3}
        code, out = await headgate("workers", "remove", "echo")
        assert code == 1, out
        code, out = await headgate("workers", "remove", "echo", "--force")
        assert code == 0, out
        code, out = await headgate("reload")
        assert code == 0, out
        assert await _answers(daemon.address, 6) == {2}
        assert (await headgate("drain"))[0] == 0
        assert await daemon.ended() == 0


async def _answers(address: str, number: int) -> set[int]:
    """How many tokens answers have."""
    import aiohttp  # noqa: PLC0415

    tokens = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(number):
            async with session.post(address + "/v1/chat/completions", json=chat("two words")) as response:
                tokens.add((await response.json())["usage"]["completion_tokens"])
    return tokens
