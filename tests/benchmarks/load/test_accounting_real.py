"""What a real Headgate books for each way that a request can end, beside what its client saw."""

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from benchmarks.load.accounting import Attempts, Clients, agree_backend, compare
from benchmarks.load.answer import Answer, End
from benchmarks.load.backend_client import connect
from benchmarks.load.scrape import Ending, difference, settle, snapshot
from benchmarks.report.model import Counts
from tests.benchmarks.load.simulated import simulated
from tests.process.daemon import Daemon, configured, serving
from tests.servers import Exchange, ScriptedBackend, chunk, completion, events, head, http_chunk, streamed, whole

CONFIG = """
[stages.inference]
concurrency = 1
capacity = 1

[[workers]]
name = "scripted"
kind = "openai"
base_url = "{backend}"

[[workers]]
name = "nobody"
kind = "openai"
base_url = "http://127.0.0.1:{nobody}/v1"

[[routes]]
name = "model"
worker = "scripted"

[[routes]]
name = "dead"
worker = "nobody"
"""

BEGUN = head(Transfer_Encoding="chunked") + http_chunk(events(chunk("a"), done=False))


async def script(exchange: Exchange) -> None:
    """What the prompt says."""
    if exchange.method == "GET":  # whether it is there
        await exchange.send(whole({"data": []}))
        return
    match exchange.json["messages"][-1]["content"]:
        case "answer":
            stream = streamed(chunk("a"), chunk("b"), chunk(finish="stop"))
            await exchange.send(stream if exchange.json["stream"] else whole(completion("a")))
        case "refuse":
            await exchange.send(whole({"error": {"message": "bad temperature"}}, 400))
        case "begin":
            await exchange.send(BEGUN)
            await exchange.gone.wait()
        case "break":
            await exchange.send(BEGUN)
            exchange.close()
        case "wait":
            await exchange.gone.wait()


async def ask(url: str, data: bytes, *, leave: str = "", **headers: str) -> Answer:
    """One attempt. `leave`: `token` (as soon as one is there) or after so many milliseconds."""
    answer = Answer(sent=1.0)
    limit = asyncio.timeout(float(leave) / 1000 if leave.isdigit() else 10)
    fields = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    try:
        async with limit, aiohttp.ClientSession() as session, session.post(url, data=data, headers=fields) as response:
            answer.status = response.status
            if leave == "token" and answer.status == 200:
                await response.content.readany()
                answer.end = End.LEFT
            else:
                _read(answer, await response.text())
    except TimeoutError:
        answer.end = End.LEFT if leave else End.TIMED_OUT
    except aiohttp.ClientError:
        answer.end = End.BROKEN
    return answer


def _read(answer: Answer, text: str) -> None:
    if answer.status != 200:
        answer.end, answer.code = End.REFUSED, json.loads(text)["error"]["code"]
    elif '"error"' in text:
        last = text.strip().splitlines()[-1]
        answer.end, answer.code = End.ERROR_EVENT, json.loads(last.removeprefix("data: "))["error"]["code"]
    else:
        assert "[DONE]" in text or "chat.completion" in text
        answer.end = End.WHOLE


def prompt(text: str, *, stream: bool = False, model: str = "model") -> bytes:
    return json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()


class Compared:
    """What the target booked, and the disagreements."""

    def __init__(self) -> None:
        self.booked: Counter[Ending] = Counter()
        self.problems: list[str] = []


class Target:
    """A Headgate before a scripted backend, and what its metrics and `compare` say of some attempts."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.base_url = f"{daemon.address}/v1"
        self.url = f"{self.base_url}/chat/completions"

    @asynccontextmanager
    async def comparing(self, attempts: Attempts, model: str = "model") -> AsyncIterator[Compared]:
        """Within, attempts are made; afterwards it is known what the target booked."""
        compared = Compared()
        before = await snapshot(self.base_url)
        yield compared
        after = (await settle(self.base_url)).snapshot
        assert before is not None
        assert after is not None
        counted = difference(before, after, model)
        assert counted.open_before == counted.open_after == 0
        compared.booked.update(counted.ended)
        compared.problems += compare(Counts(), attempts, counted).problems


@asynccontextmanager
async def target(folder: Path, more: str = "") -> AsyncIterator[Target]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        async with ScriptedBackend(script) as backend:
            text = CONFIG.format(backend=backend.base_url, nobody=nobody.getsockname()[1]) + more
            async with serving(configured(folder, text, server="max_body_bytes = 100_000\n")) as daemon:
                yield Target(daemon)


CASES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "answered": (prompt("answer"), {}, "completed"),
    "streamed": (prompt("answer", stream=True), {}, "completed"),
    "no JSON": (b"{", {}, "rejected"),
    "no such model": (prompt("answer", model="nope"), {}, "rejected"),
    "too large": (prompt("x" * 200_000), {}, "rejected"),
    "a form": (prompt("answer"), {"Content_Type": "multipart/form-data"}, "rejected"),
    "no deadline": (prompt("answer"), {"X_Request_Timeout_Ms": "soon"}, "rejected"),
    "refused by the backend": (prompt("refuse"), {}, "rejected"),
    "no backend": (prompt("answer", model="dead"), {}, "failed"),
    "overdue": (prompt("wait"), {"X_Request_Timeout_Ms": "60"}, "expired"),
    "overdue in its stream": (prompt("begin", stream=True), {"X_Request_Timeout_Ms": "120"}, "expired"),
    "broken in its stream": (prompt("break", stream=True), {}, "failed"),
    "leaves while it waits": (prompt("wait"), {"leave": "50"}, "cancelled"),
    "leaves at the first token": (prompt("begin", stream=True), {"leave": "token"}, "cancelled"),
}


@pytest.mark.slow
async def test_a_real_headgate_books_what_its_clients_saw(tmp_path: Path):
    async with target(tmp_path) as headgate:
        for name, (data, options, outcome) in CASES.items():
            attempts = Attempts()
            model = "dead" if name == "no backend" else "model"
            async with headgate.comparing(attempts, model) as compared:
                attempts.book(await ask(headgate.url, data, **options))
            assert compared.problems == [], name
            assert [ending[0] for ending in compared.booked.elements()] == [outcome], name
            assert attempts.least(outcome) == (0 if "leave" in options else 1), name
            assert attempts.most(outcome) == 1, name
        attempts = Attempts()
        async with headgate.comparing(attempts) as compared:
            attempts.book(await ask(f"{headgate.base_url}/nothing", prompt("answer")))
        assert (compared.booked.total(), compared.problems) == (0, [])
        assert attempts.seen == {"rejected": 1}


@pytest.mark.slow
async def test_a_real_headgate_that_sheds_loses_a_process_and_is_used_by_others(tmp_path: Path):
    async with target(tmp_path) as headgate:
        attempts = Attempts()
        async with headgate.comparing(attempts) as compared:
            # One is at the backend, one waits; of ten more at once, none finds a place.
            waiting = [asyncio.create_task(ask(headgate.url, prompt("wait"), leave="600")) for _ in range(2)]
            await _open(headgate, 2)
            for answer in await asyncio.gather(*(ask(headgate.url, prompt("answer")) for _ in range(10))):
                attempts.book(answer)
            for answer in await asyncio.gather(*waiting):
                attempts.book(answer)
        assert compared.problems == []
        assert compared.booked["shed", "ingress", "queue_full"] == attempts.least("shed") == 10
        assert compared.booked.total() - 10 == attempts.most("cancelled") == 2

        attempts = Attempts()
        async with headgate.comparing(attempts) as compared:
            waiting = [asyncio.create_task(ask(headgate.url, prompt("wait"))) for _ in range(2)]
            await _open(headgate, 2)
            os.kill((await headgate.daemon.pids())["shard 0"], signal.SIGKILL)
            for answer in await asyncio.gather(*waiting):
                assert answer.end is End.BROKEN
                attempts.book(answer)
        assert compared.problems == []
        assert compared.booked == {("failed", "-", "shard_lost"): 2}

        await headgate.daemon.until_ready()
        attempts = Attempts()
        async with headgate.comparing(attempts) as compared:
            attempts.book(await ask(headgate.url, prompt("answer")))
            await ask(headgate.url, prompt("answer"))  # a stranger
        assert len(compared.problems) == 2
        assert "this run can have caused 1 at most" in compared.problems[0]


KEYS = """
[[keys]]
name = "once"
hash = "sha256:{once}"
routes = ["model"]
requests_per_minute = 1
"""


@pytest.mark.slow
async def test_a_real_headgate_books_what_keys_and_limits_refuse(tmp_path: Path):
    keys = KEYS.format(once=sha256(b"hg_once").hexdigest())
    known = {"x_api_key": "hg_once"}
    cases = {
        "no key": (prompt("answer"), {}, "rejected", "invalid_api_key"),
        "an unknown key": (prompt("answer"), {"x_api_key": "hg_other"}, "rejected", "invalid_api_key"),
        "another route": (prompt("answer", model="dead"), known, "rejected", "permission_denied"),
        "the one it may": (prompt("answer"), known, "completed", ""),
        "one too many": (prompt("answer"), known, "rejected", "rate_limit_exceeded"),
    }
    async with target(tmp_path, keys) as headgate:
        for name, (data, options, outcome, code) in cases.items():
            attempts = Attempts()
            model = "dead" if name == "another route" else "model"
            async with headgate.comparing(attempts, model) as compared:
                answer = await ask(headgate.url, data, **options)
                attempts.book(answer)
            assert (answer.code, compared.problems) == (code, []), name
            assert [ending[0] for ending in compared.booked.elements()] == [outcome], name
            assert attempts.least(outcome) == attempts.most(outcome) == 1, name


SIMULATED = """
[stages.inference]
concurrency = 4
capacity = 4

[[workers]]
name = "simulated"
kind = "openai"
base_url = "{backend}/v1"

[[routes]]
name = "model"
worker = "simulated"
"""


@pytest.mark.slow
async def test_clients_headgate_and_backend_agree_on_every_request(tmp_path: Path):
    """Thirty at once before eight places: most are shed, some leave, the others complete."""
    run, numbers = "00c0ffee", range(30)
    async with (
        simulated(slots=4, first_token_ms=60, tokens=8, tokens_per_second=50) as urls,
        await connect(urls[0]) as backend,
        serving(configured(tmp_path, SIMULATED.format(backend=urls[0]))) as daemon,
    ):
        headgate = Target(daemon)
        attempts, completed, gone = Attempts(), set(), {}

        async def client(number: int) -> None:
            leave = "token" if number % 3 == 0 else ""
            answer = await ask(headgate.url, prompt(f"#{run}.{number} hello", stream=True), leave=leave)
            attempts.book(answer)
            if answer.end is End.WHOLE:
                completed.add(number)
            elif answer.end is End.LEFT:
                gone[number] = time.time()

        async with headgate.comparing(attempts) as compared:
            await asyncio.gather(*(client(number) for number in numbers))
        assert compared.problems == []
        log = await backend.settle(run)
        counts, (outlived,) = agree_backend(log, Clients(completed, attempts.sent, gone), [numbers], 1)
        assert counts.agrees, counts.problems
        assert counts.arrivals == counts.served + counts.cancelled == 8
        assert counts.served == len(completed) == 8 - len(gone)
        assert 0 < len(gone) < 8
        assert outlived.requests == counts.left_running == 0
        # The same, if one more had completed that the backend knows nothing of.
        counts, _ = agree_backend(log, Clients(completed | {999}, attempts.sent, gone), [numbers], 1)
        assert not counts.agrees


async def _open(headgate: Target, wanted: int) -> None:
    async with asyncio.timeout(5):
        while (now := await snapshot(headgate.base_url)) is None or now.still_open != wanted:
            await asyncio.sleep(0.01)
