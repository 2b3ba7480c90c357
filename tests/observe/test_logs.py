import asyncio
import contextlib
import json
import logging
import os
import pty
import time
import warnings
from types import SimpleNamespace

import pytest
import structlog

from config.schema import LoggingSection
from pipeline.core.access import Caller
from pipeline.core.errors import BackendFailed, StageFailed
from pipeline.core.messages import Cut, PromptRequest
from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.core.ports import Hooks
from pipeline.observe.layout import MetricsLayout
from pipeline.observe.logs import Logs
from pipeline.observe.metrics import ShardMetrics
from pipeline.observe.observers import Observers
from tests.observe.requests import COUNTED, complete, end, open_ticket, refusal, refuse
from workers.base import ChatMessage, Parameters, Usage


@pytest.fixture
def log_file(tmp_path):
    """A descriptor to log to, and what has been logged there."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield descriptor, lambda: [json.loads(line) for line in path.read_text().splitlines()]
    os.close(descriptor)


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def start(log_file):
    started: list[Logs] = []

    def start(**section) -> Logs:
        started.append(Logs(LoggingSection(**section), "shard 0", log_file[0]))
        return started[-1]

    yield start
    for logs in started:
        logs.close()


def hooks_of(logs: Logs) -> Observers:
    layout = MetricsLayout([COUNTED])
    return Observers(ShardMetrics(layout, [0] * layout.size), logs.hooks())


class TestLines:
    def test_are_json_objects_that_name_their_process(self, start, log_file):
        start().log.info("started", port=8080, path=object)
        (line,) = log_file[1]()
        assert line["event"] == "started"
        assert line["level"] == "info"
        assert line["process"] == "shard 0"
        assert line["port"] == 8080
        assert line["timestamp"].endswith("Z")
        assert "object" in line["path"]

    def test_below_the_level_are_not_made(self, start, log_file):
        logs = start(level="warning")
        logs.log.info("not", value=1)
        logs.log.warning("this")
        assert [line["event"] for line in log_file[1]()] == ["this"]

    def test_of_libraries_go_the_same_way(self, start, log_file):
        start()
        logging.getLogger("aiohttp.server").error("broken %s", "pipe")
        logging.getLogger("aiohttp.server").debug("nobody asked")
        (line,) = log_file[1]()
        assert (line["event"], line["logger"], line["level"]) == ("broken pipe", "aiohttp.server", "error")

    def test_of_the_event_loop_go_the_same_way(self, start, log_file):
        start()

        async def forget() -> None:
            async def fail() -> None:
                raise ValueError("nobody looked")

            task = asyncio.create_task(fail())
            await asyncio.sleep(0)
            del task
            await asyncio.sleep(0)

        asyncio.run(forget())
        (line,) = log_file[1]()
        assert line["logger"] == "asyncio"
        assert "ValueError: nobody looked" in line["exception"]

    def test_warnings_go_the_same_way(self, start, log_file):
        start()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=False)
            logging.captureWarnings(capture=True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        assert "DeprecationWarning: old" in log_file[1]()[0]["event"]

    def test_exceptions_do_not_show_local_variables(self, start, log_file):
        logs = start()
        prompt = "my secret question"
        try:
            {}[len(prompt)]
        except KeyError:
            logs.log.exception("failed")
        (line,) = log_file[1]()
        assert "KeyError: 18" in line["exception"]
        assert prompt not in json.dumps(line)


def read_until(terminal: int, word: str) -> str:
    """A terminal hands on what was written to it in its own time, perhaps in pieces."""
    text, until = "", time.monotonic() + 10
    while word not in text and time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            text += os.read(terminal, 65_536).decode()
        time.sleep(0.001)
    return text


class TestConsole:
    def test_is_chosen_at_a_terminal(self, monkeypatch):
        monkeypatch.delenv("NO_COLOR", raising=False)
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        try:
            logs = Logs(LoggingSection(), "shard 0", slave)
            logs.log.info("started", port=8080)
            complete(hooks_of(logs))
            logs.close()
            text = read_until(master, "completed")
        finally:
            os.close(master)
            os.close(slave)
        assert "\x1b[" in text
        assert "started" in text
        assert "rag:1.0 assemble:1.0" in text
        assert "completed" in text
        with pytest.raises(json.JSONDecodeError):
            json.loads(text.splitlines()[0])

    def test_can_be_asked_for_without_a_terminal(self, start, log_file, tmp_path):
        logs = start(format="console")
        logs.log.info("started", port=8080)
        text = (tmp_path / "log").read_text()
        assert "started" in text
        assert "\x1b[" not in text

    def test_text_from_outside_cannot_write_to_the_terminal(self, start, tmp_path):
        logs = start(format="console")
        ticket = open_ticket(hooks_of(logs))
        ticket.session_id = "\x1b[2J\nfake line"
        end(ticket, Reason.DONE, Place.STREAM)
        text = (tmp_path / "log").read_text()
        assert "\x1b" not in text
        assert len(text.splitlines()) == 1
        assert "fake line" in text


class TestRequests:
    @pytest.mark.parametrize("form", ["json", "console"])
    def test_no_session_id_and_no_token_count_is_too_odd(self, start, tmp_path, form):
        logs = start(format=form)
        hooks = hooks_of(logs)
        ticket = open_ticket(hooks)
        ticket.session_id = "caf\udce9"  # a byte that is no UTF-8, as HTTP heads are decoded
        end(ticket, Reason.DONE, Place.STREAM)
        ticket = open_ticket(hooks)
        ticket.usage = Usage(10**30, 1)
        end(ticket, Reason.DONE, Place.STREAM)
        logs.log.info("odd", text="\udce9")
        text = (tmp_path / "log").read_text()
        assert "observer_failed" not in text
        assert len(text.splitlines()) == 3
        assert "udce9" in text
        assert str(10**30) in text

    def test_a_log_that_fails_hurts_nobody(self, start, log_file):
        class Broken(Hooks):
            def after_end(self, ticket):
                raise ZeroDivisionError

        start()
        layout = MetricsLayout([COUNTED])
        cells = [0] * layout.size
        complete(Observers(ShardMetrics(layout, cells), [Broken()]))
        (line,) = log_file[1]()
        assert (line["event"], line["request_id"]) == ("observer_failed", "req-1")

    def test_one_line_says_how_it_went(self, start, log_file):
        logs = start()
        hooks = hooks_of(logs)
        ticket = open_ticket(hooks)
        ticket.session_id = "s-1"
        ticket.stream = True
        ticket.cut = Cut(passages=2, turns=1)
        ticket.passages = 4
        ticket.worker = "small"
        ticket.sojourn[0], ticket.service[0] = 0.0012345, 0.5
        seen = "The backend failed: and quoted the prompt"
        error = BackendFailed(seen, reason="backend_unavailable", backend_status=503)
        end(ticket, Reason.BACKEND_UNAVAILABLE, Place.INFERENCE, error)
        logs.writer.flush()
        (line,) = log_file[1]()
        timestamp = line.pop("timestamp")
        assert timestamp.endswith("Z")
        assert line == {
            "event": "request",
            "level": "info",
            "process": "shard 0",
            "request_id": "req-1",
            "session_id": "s-1",
            "route": "docs",
            "worker": "small",
            "outcome": "failed",
            "stage": "inference",
            "reason": "backend_unavailable",
            "backend_status": 503,
            "stream": True,
            "duration_ms": 2000.0,
            "queue_ms": {"rag": 1.234},
            "stage_ms": {"rag": 500.0, "inference": 2000.0},
            "passages": 4,
            "cut_passages": 2,
            "cut_turns": 1,
        }

    def test_a_completed_one_tells_its_tokens(self, start, log_file):
        logs = start()
        complete(hooks_of(logs))
        logs.writer.flush()
        (line,) = log_file[1]()
        assert (line["prompt_tokens"], line["completion_tokens"], line["deltas"]) == (10, 4, 3)
        assert line["first_token_ms"] == 20.0
        assert line["stage_ms"] == dict.fromkeys(["rag", "assemble", "inference", "post", "stream"], 3.0)

    def test_whose_it_was_and_what_it_got_less_of(self, start, log_file):
        logs = start()
        ticket = open_ticket(hooks_of(logs))
        ticket.caller, ticket.priority = Caller("batch jobs"), Priority.LOW
        ticket.reduced = ("passages=2", "max_tokens=256")
        ticket.worker, ticket.retries = "large", 2
        end(ticket, Reason.DONE, Place.STREAM)
        logs.writer.flush()
        (line,) = log_file[1]()
        assert (line["key"], line["class"]) == ("batch jobs", "low")
        assert line["reduced"] == ["passages=2", "max_tokens=256"]
        assert (line["worker"], line["retries"]) == ("large", 2)

    def test_of_what_was_refused_only_so_many_a_second(self, start, log_file):
        logs = start(refusals_per_s=2)
        hooks = hooks_of(logs)
        for n in range(50):
            refuse(hooks, 1.0 + n / 100)
            hooks.after_gate(refusal(Reason.QUEUE_FULL), 0.9, 1.0 + n / 100, f"gated-{n}")
        complete(hooks)
        logs.close()
        *lines, left_out = log_file[1]()
        shown = [(line["request_id"], line["reason"]) for line in lines]
        assert sorted(shown) == [
            ("gated-0", "queue_full"),
            ("gated-1", "queue_full"),
            ("req-1", "done"),
            ("req-1", "wait_budget"),
            ("req-1", "wait_budget"),
        ]
        assert {key: left_out[key] for key in ("event", "level", "process")} == {
            "event": "refusals_left_out",
            "level": "info",
            "process": "shard 0",
        }
        assert left_out["count"] == 96
        assert left_out["reasons"] == {"wait_budget": 48, "queue_full": 48}
        assert left_out["routes"] == {"docs": 48, "-": 48}

    def test_what_the_head_gate_refused_has_no_route(self, start, log_file):
        logs = start()
        hooks_of(logs).after_gate(refusal(), 1.0, 1.0015)
        logs.writer.flush()
        (line,) = log_file[1]()
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "request",
            "level": "info",
            "process": "shard 0",
            "request_id": "-",
            "route": "-",
            "worker": "-",
            "outcome": "shed",
            "stage": "ingress",
            "reason": "wait_budget",
            "stream": False,
            "duration_ms": 1.5,
            "queue_ms": {},
            "stage_ms": {},
        }

    def test_at_a_terminal_the_same_is_left_out(self, start, tmp_path):
        logs = start(format="console", refusals_per_s=1)
        hooks = hooks_of(logs)
        ticket = open_ticket(hooks)
        ticket.reduced = ("passages=2", "max_tokens=256")
        end(ticket, Reason.DONE, Place.STREAM)
        for _ in range(4):
            refuse(hooks, 1.0)
            hooks.after_gate(refusal(Reason.QUEUE_FULL), 0.9, 1.0)
        logs.close()
        first, *refused, left_out = (tmp_path / "log").read_text().splitlines()
        assert "reduced='passages=2 max_tokens=256'" in first
        assert len(refused) == 2
        assert "refusals_left_out" in left_out
        assert "reasons='wait_budget:3 queue_full:3'" in left_out

    def test_a_refusal_left_out_costs_no_record(self, start, monkeypatch):
        def never(*_):
            raise AssertionError("a record was made")

        logs = start(refusals_per_s=0)
        hooks = hooks_of(logs)
        monkeypatch.setattr("pipeline.observe.requests.record_of", never)
        monkeypatch.setattr("pipeline.observe.requests.record_of_gated", never)
        reported = []
        monkeypatch.setattr("pipeline.observe.observers.log.exception", lambda event, **_: reported.append(event))
        refuse(hooks, 1.0)
        hooks.after_gate(refusal(), 1.0, 1.0)
        assert not reported
        complete(hooks)
        assert reported == ["observer_failed"]

    def test_a_higher_level_leaves_them_out_at_no_cost(self, start):
        assert [type(hook).__name__ for hook in start(level="warning").hooks()] == ["FaultLog"]

    def test_a_handler_that_raised_is_shown_without_its_message(self, start, log_file):
        logs = start()
        ticket = open_ticket(hooks_of(logs))
        failed = StageFailed("The rag stage failed on this request")
        try:
            int("my secret question")
        except ValueError as error:
            failed.__cause__ = error
        end(ticket, Reason.STAGE_ERROR, Place.RAG, failed)
        logs.writer.flush()
        fault = next(line for line in log_file[1]() if line["event"] == "stage_failed")
        assert fault["error"] == "ValueError"
        assert fault["stage"] == "rag"
        assert "test_a_handler_that_raised" in fault["frames"]
        assert "literal" not in json.dumps(fault)  # "invalid literal for int() with base 10: …"


def submit(hooks: Hooks) -> None:
    ticket = open_ticket(hooks)
    hooks.after_submit(
        PromptRequest(
            ticket,
            ticket.request_id,
            None,
            "docs",
            (ChatMessage("user", "my secret question"),),
            "my secret question",
            Parameters(),
            stream=False,
            deadline=9.0,
        )
    )
    end(ticket, Reason.DONE, Place.STREAM)


class TestLevel:
    def events(self, logs, log_file) -> list[str]:
        logs.writer.flush()
        return [line["event"] for line in log_file[1]()]

    def test_changes_for_loggers_that_are_in_use_and_for_libraries(self, start, log_file):
        early = structlog.get_logger()
        logs = start(level="info")
        bound, library = early.bind(part="x"), logging.getLogger("library")
        for level, number in (("info", 1), ("debug", 2), ("error", 3), ("info", 4)):
            if number > 1:
                logs.set_level(level)
            assert logs.level == level
            for name in ("debug", "info", "error"):
                for log, who in ((early, "early"), (bound, "bound"), (library, "library"), (logs.log, "own")):
                    getattr(log, name)(f"{who} {name} {number}")
        expected = [
            f"{who} {name} {number}"
            for number, names in ((1, "info error"), (2, "debug info error"), (3, "error"), (4, "info error"))
            for name in names.split()
            for who in ("early", "bound", "library", "own")
        ]
        assert self.events(logs, log_file) == expected

    def test_request_lines_come_and_go(self, start, log_file):
        logs = start(level="warning")
        observers = hooks_of(logs)
        logs.on_level = lambda: observers.use(logs.hooks())
        complete(observers)
        logs.set_level("info")
        complete(observers)
        complete(observers)
        logs.set_level("warning")
        complete(observers)
        assert self.events(logs, log_file) == ["request"] * 2

    def test_what_ended_before_a_change_is_still_shown(self, start, log_file):
        logs = start(level="info")
        layout = MetricsLayout([COUNTED])
        later: list[object] = []
        handle = SimpleNamespace(cancel=lambda: None)
        observers = Observers(
            ShardMetrics(layout, [0] * layout.size), logs.hooks(), lambda _, call: later.append(call) or handle
        )
        complete(observers)
        assert self.events(logs, log_file) == []
        observers.use([])
        assert self.events(logs, log_file) == ["request"]

    def test_another_logger_of_this_process_is_not_touched(self, start):
        structlog_own = structlog.make_filtering_bound_logger(logging.DEBUG)
        before = structlog_own.debug
        start(level="error").set_level("info")
        assert structlog_own.debug is before

    def test_there_are_only_the_known_ones(self, start):
        with pytest.raises(KeyError):
            start().set_level("loud")


class TestPrompts:
    @pytest.mark.parametrize("section", [{"level": "debug"}, {"level": "info", "prompts": True}])
    def test_are_not_logged_unless_asked_for_at_debug_level(self, start, tmp_path, section):
        logs = start(**section)
        submit(hooks_of(logs))
        logs.writer.flush()
        text = (tmp_path / "log").read_text()
        assert "req-1" in text
        assert "secret" not in text

    def test_are_logged_when_asked_for(self, start, log_file):
        logs = start(level="debug", prompts=True)
        submit(hooks_of(logs))
        logs.writer.flush()
        prompt, request = log_file[1]()
        assert prompt["event"] == "prompt"
        assert prompt["level"] == "debug"
        assert prompt["messages"] == [{"role": "user", "text": "my secret question"}]
        assert request["request_id"] == prompt["request_id"]
