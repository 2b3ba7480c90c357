"""A soak from its beginning to its end."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load.accounting import compare
from benchmarks.load.environment import environment
from benchmarks.load.scrape import Snapshot, difference, parse, settle
from benchmarks.load.session import undisturbed
from benchmarks.peers.gateway import bare_environment
from benchmarks.report.model import Accounting
from benchmarks.servers import free_port
from benchmarks.service import Service
from benchmarks.soak.lives import Lives
from benchmarks.soak.load import Load
from benchmarks.soak.places import Backend, Daemon, NotStarted
from benchmarks.soak.progress import Progress
from benchmarks.soak.result import Result
from benchmarks.soak.settings import DEADLINE, IDLE, Place, Settings
from benchmarks.soak.troubles import Troubles
from benchmarks.soak.verdict import Seen, log_problems, told, unexpected

SAMPLE_EVERY = 1.0  # seconds
_CALM = 0.3  # of the time, at the end: no process is killed any more
_QUIET = IDLE + 2.0  # seconds without load, until idle connections to backends are closed too
_END_WITHIN = DEADLINE + 12.0
_SERVICE = Service(slots=32, first_token_ms=40, tokens_per_second=120, tokens=16, distribution="lognormal", spread=0.5)
_MOST_QUIET: Mapping[str, float] = {"tasks": 12, "descriptors": 24, "threads": 8}  # above what it had when it was new
_DOCUMENT = "# Headgate\n\nA queue that is full sheds the newest request.\n\nA shard owns its sessions.\n"


class Options(msgspec.Struct, frozen=True):
    """`seconds` of load; `troubles` are the kinds that are made, all where there are none."""

    seconds: float
    shards: int
    seed: int
    troubles: Sequence[str]
    interval: float


async def soak(options: Options, progress: Progress) -> Result:
    """Raises NotStarted."""
    with tempfile.TemporaryDirectory(prefix="headgate-soak-") as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        place = Place(free_port(), free_port(), name, options.shards)
        settings = Settings(place, Random(options.seed))
        daemon, backend = Daemon(folder, place.port), Backend(place.backend, _SERVICE)
        daemon.config.write_text(settings.text())
        await asyncio.to_thread(_ingest, folder)
        try:
            await backend.start()
            await daemon.start()
            return await Soak(options, daemon, backend, settings, progress).run()
        finally:
            await daemon.end(1.0)
            await backend.kill()


def _ingest(folder: Path) -> None:
    """Raises NotStarted."""
    document = folder / "headgate.md"
    document.write_text(_DOCUMENT)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "ingest", "--config", str(folder / "pipeline.toml"), str(document)],
        env=bare_environment(folder / "tmp"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotStarted(f"the documents could not be ingested:\n{done.stdout}{done.stderr}")


class Soak:
    """`run` is its life: load and troubles at once, then quiet, then the end, and after each a look."""

    def __init__(
        self, options: Options, daemon: Daemon, backend: Backend, settings: Settings, progress: Progress
    ) -> None:
        self._options = options
        self._daemon = daemon
        self._backend = backend
        self._progress = progress
        self._load = Load(f"{daemon.url}/v1", options.seconds, options.seed)
        self._lives = Lives()
        self._troubles = Troubles(daemon, backend, settings, Random(~options.seed), options.troubles)
        self._seen: list[Seen] = []
        self._snapshot: Snapshot | None = None
        self._new: dict[str, float] = {}  # what a shard holds before the first request
        self._problems: list[str] = []

    async def run(self) -> Result:
        began = time.monotonic()
        await self._look()
        before = self._snapshot
        self._new = self._shards_hold()
        looking = asyncio.ensure_future(self._look_on(began))
        end = began + self._options.seconds
        try:
            with undisturbed():
                await asyncio.gather(self._load.run(), self._troubles.run(end, end - _CALM * self._options.seconds))
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        seconds = time.monotonic() - began
        accounting = await self._settle(before)
        await self._end()
        return self._result(seconds, accounting)

    async def _look_on(self, began: float) -> None:
        due = began
        while True:
            due += SAMPLE_EVERY
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await self._look()
            self._progress.show(time.monotonic() - began, self._load.counts, self._lives, self._troubles)

    async def _look(self) -> None:
        """Processes, the daemon's own numbers, and what clients have seen."""
        await asyncio.to_thread(self._lives.sample, self._daemon.pids(), self._daemon.pid)
        self._seen += self._load.news()
        with suppress(aiohttp.ClientError, TimeoutError):  # the end tells, if it is gone for good
            page = await self._daemon.metrics()
            self._check(parse(page))
            pids = await self._daemon.processes()
            self._lives.tasks({pids[name]: number for name, number in _tasks(page).items() if name in pids})

    def _check(self, snapshot: Snapshot) -> None:
        """The identity as the daemon itself shows it, and that no count ever goes back."""
        found = difference(self._snapshot or snapshot, snapshot)
        self._snapshot = snapshot
        if not found.comparable:
            self._problem("counts in /metrics went back, or begin anew")
        for problem in found.problems:
            self._problem(problem)

    async def _settle(self, before: Snapshot | None) -> Accounting:
        """The load has ended: nothing may be open any more, neither here nor there."""
        await self._load.aclose()
        after = await settle(f"{self._daemon.url}/v1")
        counts, attempts = self._load.counts, self._load.attempts
        if before is None or after.snapshot is None:
            self._problem(f"/metrics could not be read: {after.why or 'before the load'}")
            return compare(counts, attempts, None)
        accounting = compare(counts, attempts, difference(before, after.snapshot))
        self._problems += accounting.problems
        await asyncio.sleep(_QUIET)
        await self._look()
        self._problems += self._held_in_quiet()
        if left := await self._backend.at_work():
            self._problem(f"the backend still works on {left} calls that nobody waits for")
        return accounting

    def _held_in_quiet(self) -> Iterator[str]:
        """What shards hold that have nothing to do, beside what they held when they were new."""
        now = self._shards_hold()
        for measure, more in _MOST_QUIET.items():
            if now.get(measure, 0) > self._new.get(measure, 0) + more:
                yield (
                    f"a shard without requests has {now[measure]:.0f} {measure}, "
                    f"{self._new.get(measure, 0):.0f} when it was new"
                )

    def _shards_hold(self) -> dict[str, float]:
        """By measure, of the shard that holds most."""
        shards = [life for life in self._lives.current if life.role == "shard"]
        return {measure: max((life.last(measure) for life in shards), default=0.0) for measure in _MOST_QUIET}

    async def _end(self) -> None:
        took = await self._daemon.end(_END_WITHIN)
        if took is None:
            self._problem(f"the daemon did not end within {_END_WITHIN:g} s of SIGTERM")
        elif self._daemon.status:
            self._problem(f"the daemon ended with status {self._daemon.status}")
        for who in self._lives.alive():
            self._problem(f"process {who.pid} is left behind")
        for path in self._daemon.left_behind():
            self._problem(f"{path} is left behind")

    def _result(self, seconds: float, accounting: Accounting) -> Result:
        self._seen += self._load.news()
        self._problems += self._load.problems()
        self._problems += self._troubles.problems
        self._problems += told(unexpected(self._seen, self._troubles.excuses))
        self._problems += self._lives.problems()
        self._problems += log_problems(self._daemon.events, self._daemon.lines, self._troubles.counts)
        return Result(
            environment=environment(),
            seed=self._options.seed,
            shards=self._options.shards,
            seconds=seconds,
            counts=self._load.counts,
            accounts=accounting.target or [],
            events=self._troubles.events,
            log=dict(self._daemon.events),
            lives=self._lives.report(),
            problems=list(dict.fromkeys(self._problems)),
        )

    def _problem(self, text: str) -> None:
        self._problems.append(text)


def _tasks(page: str) -> dict[str, int]:
    """By process name."""
    lines = [line for line in page.splitlines() if line.startswith("headgate_event_loop_tasks{")]
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return {f"shard {s.labels['shard']}": int(s.value) for family in families for s in family.samples}
