"""`headgate bench` as its users run it: a process, its files, its exit status."""

import asyncio
import itertools
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from benchmarks.load.running import failures
from benchmarks.report.files import read
from tests.benchmarks.load.simulated import simulated, started
from tests.benchmarks.load.targets import ANSWER, after, serving
from tests.process.daemon import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SHORT = """
[[phases]]
name = "a"
seconds = 2
rate = 40
[[requests]]
name = "whole"
max_tokens = { mean = 4 }
deadline_ms = 900
[[requests]]
name = "stream"
stream = true
max_tokens = { mean = 4 }
deadline_ms = 900
[backend]
slots = 4
first_token_ms = 20
tokens_per_second = 500
"""


LONG = SHORT.replace("seconds = 2", "seconds = 6")


async def served(url: str, count: int) -> None:
    """When the backend has served so many requests."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/sim") as response:
                if (await response.json())["counts"]["served"] >= count:
                    return
            await asyncio.sleep(0.05)


@pytest.fixture
def scenario(tmp_path: Path):
    def write(text: str = SHORT) -> str:
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return str(path)

    return write


@asynccontextmanager
async def bench(*arguments: str):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline.cli", "bench", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ran(*arguments: str) -> tuple[int, str, str]:
    async with bench(*arguments) as process:
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def raw(answer: bytes | None):
    """A server that says the same to whoever connects, or nothing."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def test_without_a_target_a_backend_alone_is_measured(scenario, tmp_path: Path):
    file, page = tmp_path / "r.json", tmp_path / "r.html"
    status, out, err = await ran(scenario(), "--json", str(file), "--html", str(page), "--check")
    assert status == 0, err + out
    assert len(out.splitlines()) <= 32
    report = read(file)
    counts = report.totals
    assert counts.offered == counts.completed > 50
    assert report.backend is not None
    assert report.backend.agrees
    assert report.backend.served == counts.completed
    assert report.phases[0].oracle is not None
    assert report.phases[0].oracle.share == pytest.approx(1.0, abs=0.25)
    assert {group.name: group.timings.gaps.count > 0 for group in report.phases[0].kinds} == {
        "whole": False,
        "stream": True,
    }
    assert report.processes.cpu is not None
    assert report.run in report.scenario["description"] or len(report.run) == 8
    assert "<html" in page.read_text()[:200]


async def test_the_same_seed_sends_the_same(scenario, tmp_path: Path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        status, _, err = await ran(scenario(), "--seed", "5", "--duration", "1", "--json", str(file), "--quiet")
        assert status == 0
        assert err.count("\n") == 0
    a, b = (read(file) for file in files)
    assert a.seed == b.seed == 5
    assert a.totals.offered == b.totals.offered
    assert [group.counts.offered for group in a.phases[0].kinds] == [
        group.counts.offered for group in b.phases[0].kinds
    ]


async def test_ctrl_c_ends_with_a_report_of_what_there_was(scenario, tmp_path: Path):
    file = tmp_path / "r.json"
    endless = scenario(SHORT.replace("seconds = 2", "seconds = 600"))
    async with (
        simulated(slots=4, first_token_ms=20) as (url,),
        bench(endless, "--target", f"{url}/v1", "--json", str(file)) as process,
    ):
        await served(url, 30)
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    assert process.returncode == 130
    report = read(file)
    assert report.ended == "interrupted"
    assert report.totals.completed > 20
    assert report.accounting.balanced
    assert 0.5 < report.phases[0].seconds < 30
    assert b"interrupted" in out


async def test_a_target_that_is_down_is_told_and_reported(scenario, tmp_path: Path, unused_tcp_port: int):
    file = tmp_path / "r.json"
    target = f"http://127.0.0.1:{unused_tcp_port}/v1"
    status, out, _ = await ran(scenario(), "--target", target, "--model", "m", "--json", str(file))
    assert status == 1
    assert "cannot be reached" in out
    assert "cannot be reached" in read(file).ended
    status, _, err = await ran(scenario(), "--target", target)
    assert status == 1
    assert "name a model with --model" in err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HELLO\r\n\r\n", "no use"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<html", "no use"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "answered 401"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "no use"),
        (None, "did not answer one request within 1 s"),
    ],
)
async def test_a_target_that_makes_no_sense_is_told(scenario, answer: bytes | None, words: str):
    async with raw(answer) as url:
        status, out, _ = await ran(scenario("hang_seconds = 1\n" + SHORT), "--target", url, "--model", "m")
    assert status == 1
    assert words in " ".join(out.split())


async def test_a_target_that_dies_half_way_is_a_result(scenario, tmp_path: Path):
    file = tmp_path / "r.json"
    async with (
        started(slots=4, first_token_ms=20) as (backend, (url,)),
        bench(scenario(LONG), "--target", f"{url}/v1", "--json", str(file), "--check") as process,
    ):
        await served(url, 20)
        backend.kill()
        _, err = await process.communicate()
    assert process.returncode == 1
    report = read(file)
    assert report.ended == "done"
    assert report.totals.completed > 5
    assert report.totals.unreachable + report.totals.failed > 5
    assert report.accounting.balanced
    assert b"found no connection" in err
    assert failures(report)


async def test_a_full_disk_loses_neither_the_summary_nor_the_other_file(scenario, tmp_path: Path):
    page = tmp_path / "r.html"
    status, out, err = await ran(scenario(), "--duration", "1", "--json", "/dev/full", "--html", str(page))
    assert status == 1
    assert "no space left" in err
    assert "goodput" in out
    assert page.stat().st_size > 100_000


async def test_nobody_who_reads_the_summary_costs_nothing_but_the_summary(scenario, tmp_path: Path):
    for number, output in enumerate(("| true", ">/dev/full", ">&-", "2>&- | true")):
        file = tmp_path / f"{number}.json"
        command = f"{sys.executable} -m benchmarks.load {scenario()} --duration 1 --json {file} {output}"
        process = await asyncio.create_subprocess_shell(
            command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, err = await process.communicate()
        assert b"Traceback" not in err
        assert read(file).totals.completed > 0


async def test_a_generator_without_descriptors_does_not_blame_the_target(scenario, tmp_path: Path):
    file = tmp_path / "r.json"
    text = SHORT.replace("rate = 40", "rate = 300")
    async with serving(after(0.8)) as url:
        generator = f"{sys.executable} -m benchmarks.load {scenario(text)} --target {url} --model m --json {file}"
        process = await asyncio.create_subprocess_shell(
            f"ulimit -n 64; {generator}", cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, err = await process.communicate()
    assert process.returncode == 0, err
    report = read(file)
    assert report.totals.unreachable == 0
    assert report.totals.unsent > 100
    assert any("ulimit" in note for note in report.notes)


async def test_the_backend_that_was_started_does_not_outlive_a_killed_generator(scenario):
    endless = scenario(SHORT.replace("seconds = 2", "seconds = 600"))
    async with bench(endless) as process:
        assert process.stderr is not None
        line = (await process.stderr.readline()).decode()
        url = line.partition("(")[2].partition(",")[0]
        await served(url, 1)
        process.kill()
        await process.wait()
    port = int(url.rpartition(":")[2])
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            break
        writer.close()
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the backend still listens")


@pytest.mark.parametrize("answer", [b"<html>", b""])
async def test_answers_that_are_none_fail_a_check(scenario, tmp_path: Path, answer: bytes):
    """The first answer is one, so that the run begins."""
    file = tmp_path / "r.json"
    good = msgspec.json.encode(ANSWER)
    bodies = iter([good])

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=next(bodies, answer), content_type="application/json")

    async with serving(handler) as url:
        arguments = (scenario(), "--target", url, "--model", "m", "--duration", "1", "--json", str(file))
        assert (await ran(*arguments))[0] == 0
        bodies = iter([good])
        status, _, err = await ran(*arguments, "--check")
    assert status == 1
    assert "makes no sense" in err
    assert read(file).totals.failed == read(file).totals.offered


async def test_many_texts_of_errors_are_no_silence(scenario, tmp_path: Path):
    numbers = itertools.count()

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        error = {"error": {"message": f"request {next(numbers)} refused"}}
        return web.json_response(error, status=503)

    text = SHORT.replace("rate = 40", "rate = 300")
    async with serving(handler) as url:
        status, _, err = await ran(scenario(text), "--target", url, "--model", "m", "--check")
    assert (status, err.count("check:")) == (0, 0)


async def test_counts_that_were_asked_for_and_are_missing_fail_a_check(scenario, tmp_path: Path):
    async with started(slots=4, first_token_ms=20) as (backend, (url,)), serving(after(0.0)) as target:
        arguments = (scenario(LONG), "--target", target, "--model", "m", "--backend", url, "--check")
        async with bench(*arguments) as process:
            await asyncio.sleep(3)
            backend.kill()
            _, err = await process.communicate()
    assert process.returncode == 1
    assert b"check: " in err
    assert b"simulated backend" in err


async def test_a_page_of_metrics_without_end_is_no_hang(scenario, tmp_path: Path):
    labels = ",".join(f'a{number}="x"' for number in range(100_000))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f"headgate_requests_offered_total{{{labels}}} 1\n")

    async with serving(after(0.0), metrics=metrics) as url:
        status, _, err = await ran(scenario(), "--target", url, "--model", "m", "--duration", "1", "--check")
    assert status == 1
    assert "labels" in err


async def test_goodput_below_the_least_share_fails_a_check(scenario, tmp_path: Path):
    """A backend alone serves whoever has waited longest, until nobody has any patience left."""
    file = tmp_path / "r.json"
    text = """
wait_budget_ms = 200
[[phases]]
name = "10x"
seconds = 3
load = 10
least_share = 0.8
[[requests]]
deadline_ms = 250
[backend]
slots = 2
first_token_ms = 100
cancel = false
"""
    status, _, err = await ran(scenario(text), "--check", "--quiet", "--json", str(file))
    assert status == 1
    assert "check: Phase 10x reached" in err
    assert "at least 80% are wanted" in err
    report = read(file)
    (phase,) = report.phases
    assert phase.oracle
    assert phase.oracle.share is not None
    assert phase.oracle.share < 0.8 == phase.least_share
    assert any("80%" in sentence for sentence in failures(report))
    phase.oracle.share = 0.8
    assert not any("80%" in sentence for sentence in failures(report))
    phase.oracle = None
    assert any("is not known" in sentence for sentence in failures(report))


async def test_two_thousand_requests_a_second_are_sent(scenario, tmp_path: Path):
    """All of them, whatever else the machine does; how late is for the report to say."""
    file = tmp_path / "r.json"
    text = SHORT.replace("rate = 40", "rate = 2000").replace("first_token_ms = 20", "first_token_ms = 0")
    status, _, err = await ran(scenario(text.replace("slots = 4", "slots = 1000")), "--json", str(file))
    assert status == 0, err
    report = read(file)
    assert report.totals.offered == pytest.approx(4000, rel=0.1)
    assert report.totals.unsent == 0
    assert report.totals.completed + report.totals.cancelled == report.totals.offered


async def test_a_rate_that_the_generator_cannot_keep_is_told(scenario, tmp_path: Path):
    file = tmp_path / "r.json"
    text = SHORT.replace("first_token_ms = 20", "first_token_ms = 0")
    status, out, err = await ran(scenario(text), "--rate", "60000", "--duration", "2", "--json", str(file))
    assert status == 0, err
    report = read(file)
    assert any("fell behind itself" in note for note in report.notes)
    assert "fell behind itself" in " ".join(out.split())
    assert report.accounting.balanced


async def test_what_is_wrong_is_said_before_anything_is_sent(scenario, tmp_path: Path):
    bad = SHORT.replace("rate = 40", "rat = 40").replace("stream = true", 'stream = "yes"')
    status, _, err = await ran(scenario(bad))
    assert status == 2
    assert "phases[0].rat " in err
    assert "requests[1].stream" in err
    assert (await ran("overlaod"))[0] == 2
    assert (await ran(scenario(), "--json", str(tmp_path / "missing" / "r.json")))[0] == 1
    assert (await ran(scenario(), "--rate", "0"))[0] == 2
    assert (await ran(scenario(), "--api-key", "sk-literal"))[0] == 2
    assert (await ran(scenario(), "--phase", "b"))[0] == 2
    status, _, err = await ran(scenario(), "--target", "ftp://x", "--model", "m")
    assert (status, "http://" in err) == (1, True)


async def test_the_capacity_is_found_by_a_ramp(scenario, tmp_path: Path):
    file = tmp_path / "r.json"
    text = SHORT.replace("rate = 40", "load = 1.5").replace("deadline_ms = 900", "deadline_ms = 500")
    async with simulated(slots=4, first_token_ms=40) as (url,):
        status, _, err = await ran(scenario(text), "--target", f"{url}/v1", "--json", str(file))
    assert status == 0, err
    report = read(file)
    assert report.capacity is not None
    assert report.capacity.how == "found"
    assert 40 < report.capacity.rate < 115  # 4 slots of 40 ms are 100 a second
    assert report.phases[0].load == 1.5
    assert report.phases[0].oracle is not None
    assert report.phases[0].oracle.basis == "measured"


async def test_two_reports_are_compared(scenario, tmp_path: Path):
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    for file in files:
        await ran(scenario(), "--duration", "1", "--json", file)
    page = tmp_path / "compare.html"
    status, out, err = await ran("--compare", *files, "--html", str(page))
    assert status == 0, err
    assert "goodput" in out
    assert "<html" in page.read_text()[:200]
    (tmp_path / "b.json").write_text("{}")
    status, _, err = await ran("--compare", *files)
    assert status == 1
    assert "b.json" in err
