"""Whatever kind a backend is of, nothing that it or the way to it does crashes a worker or hangs it, and a call that
nobody wants any more is let go of."""

import asyncio
import socket
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.certificates import Files, made
from tests.conformance.backends.kinds import Failed, ask, calling, ended, failed, over, streamed_or_whole, told
from tests.conformance.backends.server import chunk, head, whole
from tests.conformance.backends.speaker import (
    SECRET,
    Answers,
    BreaksAt,
    Dies,
    Endless,
    Ends,
    HttpSpeaker,
    Script,
    Stalls,
    Text,
    built,
)
from workers.errors import WorkerErrorKind as Kind

SHORT = Script((Text("Grüße"), Text(".")))
BROKEN = {Kind.RESET, Kind.CUT}


async def serves_on(served) -> None:
    served.fault = None
    assert (await told(served.worker, ask())).text == served.script.text


# What comes instead of an answer.


@over(http=True)
@streamed_or_whole
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><body>Welcome to the hotel's network</body></html>", "text/html"),
        (b"<html><body>Welcome to the hotel's network</body></html>", None),
        (b"", None),
        (b"", "text/html"),
        (b"\x00\xff\xfe\x80", None),
        (b"\x00\xff\xfe\x80", "application/octet-stream"),
        (b"null", None),
        (b"[]", None),
        (b"{}", None),
        (b'{"choices": 5, "message": 5, "content": 5}', None),
        (b"[" * 100_000, None),
        (b"data: [" * 3, None),
        (b"data: \xff\xff\n\n", None),
        (b"data: null\n\n", None),
        (b"event: x\ndata: 5\n\n", None),
        (b"null\n", None),
        (b"5\n{}\n", None),
    ],
)
async def test_no_answer_at_all(speaker, stream, body, content_type, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Answers(body, 200, content_type)
        end = await failed(served.worker, ask(stream=stream))
        assert end.error.kind in {Kind.PROTOCOL, Kind.CUT}, end.error
        assert not end.told.text
        await serves_on(served)


@over(http=True)
async def test_the_right_answer_under_a_wrong_content_type(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Answers(b"".join(speaker.stream(SHORT)), 200, "text/plain")
        assert (await failed(served.worker, ask())).error.kind is Kind.PROTOCOL
        served.fault = Answers(b"".join(speaker.stream(SHORT)), 200, "")
        assert (await told(served.worker, ask())).text == SHORT.text


@over(http=True)
@pytest.mark.slow
@pytest.mark.parametrize("size", [10 << 20, 20 << 20])
@pytest.mark.parametrize("end", [b"", b"\n\n"])
async def test_a_line_of_ten_megabytes(speaker, size, end, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Answers(b'data: {"x": "' + b"a" * size + end)
        assert (await failed(served.worker, ask())).error.kind in {Kind.PROTOCOL, Kind.CUT}
        await serves_on(served)


@over(http=True)
async def test_broken_frames_in_the_middle(speaker, tmp_path):
    """Every piece of a stream cut short at some of its bytes, with what follows it, or without."""
    async with calling(speaker, tmp_path) as served:
        pieces = speaker.stream(SHORT)
        for at, piece in enumerate(pieces):
            for cut in sorted({1, len(piece) // 3, len(piece) // 2, len(piece) - 3} & set(range(1, len(piece)))):
                for rest in ([], pieces[at + 1 :]):
                    served.fault = Answers(b"".join([*pieces[:at], piece[:cut], *rest]))
                    end = await ended(served.worker, ask())
                    if isinstance(end, Failed):
                        assert end.error.kind in {Kind.PROTOCOL, Kind.CUT, Kind.UNAVAILABLE}, (at, cut, end.error)
                    else:
                        assert [len(reasons) for reasons in end.reasons.values()] == [1]
        await serves_on(served)


# Connections that break.


@over(http=True)
@streamed_or_whole
@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.slow
async def test_a_connection_that_breaks_at_any_byte(speaker, stream, reset, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = SHORT
        kind = speaker.content_type if stream else "application/json"
        length = len(_answer(speaker, kind, stream=stream))
        for start in range(0, length, 8):
            for byte in range(start, min(start + 8, length)):
                served.fault = BreaksAt(byte, reset)
                end = await ended(served.worker, ask(stream=stream))
                if isinstance(end, Failed):
                    assert end.error.kind in BROKEN | {Kind.PROTOCOL}, (byte, end.error)
                    assert end.error.retryable or end.error.kind is Kind.PROTOCOL, byte
                    assert SHORT.text.startswith(end.told.text), byte
                else:  # all that was left was the end of the framing
                    assert end.text == SHORT.text, byte
                    assert end.reasons == {0: ["stop"]}, byte
        await serves_on(served)


def _answer(speaker: HttpSpeaker, kind: str, *, stream: bool) -> bytes:
    if not stream:
        return whole(speaker.whole(SHORT), 200, kind)
    return head(200, kind) + b"".join(map(chunk, speaker.stream(SHORT)))


@over("script", "ends")
async def test_a_stream_that_ends_before_the_answer_does(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        for after in range(3):
            served.fault = Ends(after)
            end = await failed(served.worker, ask())
            assert (end.error.kind, end.error.retryable) == (Kind.CUT, True), (after, end.error)
            assert served.script.text.startswith(end.told.text)
        await serves_on(served)


@over("script", "dies")
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_backend_that_dies(speaker, after, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Dies(after)
        end = await failed(served.worker, ask())
        assert end.error.kind in BROKEN | {Kind.UNREACHABLE, Kind.UNAVAILABLE}, end.error
        assert end.error.retryable


# Calls that nobody wants any more.


@over("script")
@streamed_or_whole
@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_stalled_call_is_let_go_of_at_once(speaker, stream, after, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Stalls(after if stream else 0)
        call = asyncio.create_task(told(served.worker, ask(stream=stream)))
        await served.until(lambda: bool(served.heard))
        if after and stream:
            await served.until(lambda: served.sent > 0)
        assert served.open
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await served.until(lambda: not served.open, limit=1.0)
        await serves_on(served)


@over("script")
async def test_closing_the_answer_ends_the_call(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Endless()
        async with aclosing(served.worker.generate(ask())) as batches:
            await anext(batches)
        await served.until(lambda: not served.open, limit=1.0)
        await serves_on(served)


@over("script")
@pytest.mark.slow
async def test_a_backend_is_not_read_while_nobody_listens(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script, served.fault = Script((Text("x" * 4000),) * 8), Endless()
        async with aclosing(served.worker.generate(ask())) as batches:
            await anext(batches)
            before = -1
            while before != served.sent:
                before = served.sent
                await asyncio.sleep(0.15)
            assert served.sent < 24 << 20  # what the kernel and one read ahead hold
            for _ in range(20):
                await anext(batches)


@over("script")
async def test_a_worker_that_is_closed_ends_its_calls(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.fault = Stalls(1)
        call = asyncio.create_task(ended(served.worker, ask()))
        await served.until(lambda: bool(served.heard))
        await served.worker.aclose()
        await served.worker.aclose()
        end = await asyncio.wait_for(call, 2)
        assert isinstance(end, Failed)
        assert isinstance(await ended(served.worker, ask()), Failed)


@over("script")
async def test_cancelled_at_any_tick_it_serves_on(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        for ticks in range(24):
            call = asyncio.create_task(told(served.worker, ask(stream=bool(ticks % 2))))
            for _ in range(ticks):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await serves_on(served)


# Backends that are not there.


@over("network")
async def test_nobody_listens(speaker):
    with socket.socket() as bound:  # and not listening: the port is refused and nobody else's
        bound.bind(("127.0.0.1", 0))
        await _unreachable(speaker.section(f"127.0.0.1:{bound.getsockname()[1]}"))


@over("network")
async def test_a_name_that_does_not_resolve(speaker):
    await _unreachable(speaker.section("nowhere.invalid:80"))


async def _unreachable(section) -> None:
    worker = built(section)
    try:
        error = (await failed(worker, ask())).error
        assert (error.kind, error.retryable) == (Kind.UNREACHABLE, True), error
        assert "nowhere" not in error.message
        assert "127.0.0.1" not in error.message
        assert not (await worker.health()).ok
    finally:
        await worker.aclose()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    return made(folder, "one"), made(folder, "another"), made_for(folder, "elsewhere.example")


def made_for(folder: Path, name: str) -> Files:
    """One that is good, but for another server."""
    files = Files(folder / "elsewhere.crt", folder / "elsewhere.key")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
    to = ["-keyout", str(files.key), "-out", str(files.certificate)]
    subprocess.run([*command.split(), *to], check=True, capture_output=True)
    return files


@over("script", "tls")
async def test_over_tls(speaker, certificates, tmp_path):
    ours, other, elsewhere = certificates
    async with calling(speaker, tmp_path, tls=ours, ca_file=str(ours.certificate)) as served:
        assert (await told(served.worker, ask())).text == served.script.text
        assert (await served.worker.health()).ok
    for server, ca_file in [(ours, None), (ours, other.certificate), (elsewhere, elsewhere.certificate)]:
        known = {} if ca_file is None else {"ca_file": str(ca_file)}
        async with calling(speaker, tmp_path, tls=server, **known) as served:
            error = (await failed(served.worker, ask())).error
            assert error.kind is Kind.UNREACHABLE, (ca_file, error)
            assert not served.heard
            assert SECRET not in error.message


# Health.


@over("script")
async def test_health(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        assert (await served.worker.health()).ok
        served.health = "down"
        seen = await served.worker.health()
        assert not seen.ok
        assert seen.detail
        assert SECRET not in seen.detail
        served.health = "well"
        assert (await served.worker.health()).ok


@over("network", "script")
@pytest.mark.slow
async def test_health_of_a_backend_that_hangs(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.health = "hanging"
        async with asyncio.timeout(4):
            seen = await served.worker.health()
        assert not seen.ok
        assert seen.detail


@over(http=True)
async def test_health_of_a_backend_that_does_not_tell(speaker, tmp_path):
    """Whatever it makes of a 404, it says so."""
    async with calling(speaker, tmp_path) as served:
        served.health = "missing"
        seen = await served.worker.health()
        assert seen.ok or "404" in seen.detail
