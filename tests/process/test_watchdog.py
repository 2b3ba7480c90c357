"""The watchdog beside a loop that really stands still."""

import asyncio
import json
import logging
import sys
import threading
import time

import pytest
import structlog
import uvloop
from structlog.testing import LogCapture

from config.schema import LoggingSection
from pipeline.observe.logs import Logs
from pipeline.process.watchdog import INTERVAL, STACK_EVERY, Watchdog, stack

STALL = 0.1


class Watched:
    """A running loop with a watchdog, which logs into `lines`; `stalls` are the lengths that it counted."""

    def __init__(self, stall: float = STALL) -> None:
        self.capture = LogCapture()
        self.stalls: list[float] = []
        log = structlog.wrap_logger(None, processors=[self.capture], wrapper_class=structlog.BoundLogger)
        self.watchdog = Watchdog(log, stall, self.stalls.append)
        self.watchdog.start(asyncio.get_running_loop())

    def lines(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.capture.entries if line["event"] == event]

    async def until(self, event: str, number: int = 1) -> list[dict[str, object]]:
        async with asyncio.timeout(5):
            while len(self.lines(event)) < number:
                await asyncio.sleep(0.01)
        return self.lines(event)


@pytest.fixture
async def watched():
    found = Watched()
    yield found
    found.watchdog.stop()


def _stand_still(seconds: float, *, secret: str = "my prompt") -> str:
    time.sleep(seconds)
    return secret


def _compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(10_000))


class TestStall:
    async def test_is_logged_while_it_lasts_with_what_runs_then_with_its_length(self, watched):
        await asyncio.sleep(0.1)
        _stand_still(0.4)
        (stalled,) = await watched.until("event_loop_stalled")
        (resumed,) = await watched.until("event_loop_resumed")
        assert stalled["log_level"] == resumed["log_level"] == "warning"
        last = stalled["frames"].strip().splitlines()[-1]
        assert last.startswith(__file__)
        assert last.endswith("in _stand_still")
        assert "my prompt" not in stalled["frames"]
        assert STALL * 1000 <= stalled["stalled_ms"] < resumed["stalled_ms"] < 5000
        assert resumed["stalled_ms"] > 400 - INTERVAL * 1000 - 5
        assert watched.stalls == [pytest.approx(resumed["stalled_ms"] / 1000, abs=0.001)]

    @pytest.mark.slow
    async def test_that_computes_is_told_from_one_that_waits(self, watched):
        _compute(0.4)
        _stand_still(0.4)
        await watched.until("event_loop_resumed")
        await asyncio.sleep(STACK_EVERY)
        _stand_still(0.4)
        computed, waited = await watched.until("event_loop_resumed", 2)
        assert computed["cpu_ms"] > 2 * waited["cpu_ms"]

    async def test_short_of_the_threshold_is_none(self, watched):
        watched.watchdog.configure(10.0)
        _stand_still(0.3)
        await asyncio.sleep(3 * INTERVAL)
        watched.watchdog.stop()
        assert watched.capture.entries == []
        assert watched.stalls == []

    async def test_threshold_can_be_changed(self, watched):
        watched.watchdog.configure(10.0)
        _stand_still(0.3)
        await asyncio.sleep(2 * INTERVAL)
        watched.watchdog.configure(STALL)
        _stand_still(0.3)
        await watched.until("event_loop_resumed")
        assert len(watched.stalls) == 1

    async def test_an_idle_loop_has_none(self, watched):
        await asyncio.sleep(0.5)
        assert watched.stalls == []

    async def test_end_is_told_also_when_the_watchdog_stops_at_once(self, watched):
        _stand_still(0.4)
        watched.watchdog.stop()
        assert len(watched.lines("event_loop_resumed")) == len(watched.lines("event_loop_stalled")) == 1
        assert len(watched.stalls) == 1


@pytest.mark.slow
class TestManyStalls:
    async def test_give_one_stack_a_second_and_a_count_of_the_others(self, watched):
        until = time.monotonic() + 2.5 * STACK_EVERY
        while time.monotonic() < until:
            _stand_still(0.22)
            await asyncio.sleep(0.06)
        watched.watchdog.stop()
        logged = watched.lines("event_loop_stalled")
        assert 2 <= len(logged) <= 3
        assert len(watched.lines("event_loop_resumed")) == len(logged)
        told = sum(line["left_out"] for line in logged) + len(logged)
        assert len(logged) < told <= len(watched.stalls)
        assert logged[0]["left_out"] == 0
        assert all(line["left_out"] > 0 for line in logged[1:])


class TestThread:
    async def test_ends_with_stop_which_may_be_repeated(self, watched):
        assert "watchdog" in {thread.name for thread in threading.enumerate()}
        watched.watchdog.stop()
        watched.watchdog.stop()
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}

    async def test_leaves_nothing_scheduled_behind(self, watched):
        watched.watchdog.stop()
        beat = watched.watchdog._beat
        await asyncio.sleep(3 * INTERVAL)
        assert watched.watchdog._beat is beat

    def test_works_beside_uvloop(self):
        async def main() -> Watched:
            found = Watched()
            _stand_still(0.4)
            await found.until("event_loop_resumed")
            found.watchdog.stop()
            return found

        found = uvloop.run(main())
        assert found.lines("event_loop_stalled")[0]["frames"].strip().endswith("in _stand_still")

    async def test_writes_whole_lines_between_those_of_the_loop(self, tmp_path):
        """Through the log of a real process, while the loop writes there too."""
        handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
        with (tmp_path / "log").open("wb") as file:
            logs = Logs(LoggingSection(), "shard 0", file.fileno())
            watchdog = Watchdog(logs.log, 0.01, lambda _: None)
            watchdog.start(asyncio.get_running_loop())
            until = time.monotonic() + 0.6
            written = 0
            while time.monotonic() < until:
                for _ in range(200):
                    logs.writer.gather(b'{"event":"request","text":"%b"}\n' % (b"x" * 500))
                    written += 1
                _stand_still(0.08)
                await asyncio.sleep(INTERVAL)
            watchdog.stop()
            logs.close()
        logging.getLogger().handlers[:], logging.getLogger().level = handlers, level
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()
        events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
        assert events.count("request") == written
        assert "event_loop_stalled" in events


class TestStack:
    def test_is_cut_off_at_its_outer_end(self):
        def deeper(levels: int) -> str:
            return stack(sys._getframe()) if levels == 0 else deeper(levels - 1)

        text = deeper(200)
        assert len(text) < 4096
        assert text.count("in deeper\n") <= 40
        assert text.endswith("in deeper\n")

    def test_names_the_outer_call_first(self):
        def inner() -> str:
            return stack(sys._getframe())

        lines = inner().splitlines()
        assert lines[-1].endswith("in inner")
        assert lines[-2].endswith("in test_names_the_outer_call_first")
