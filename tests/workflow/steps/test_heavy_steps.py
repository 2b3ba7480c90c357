"""Steps that are given something heavy: answers of many small parts, odd charsets, patterns that take for ever."""

import asyncio
import time
from typing import Any

import pytest

from pipeline.workflow.definition import ActionStep, TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result
from pipeline.workflow.steps import transform_meter
from pipeline.workflow.steps.action import action
from pipeline.workflow.steps.transform import transform
from pipeline.workflow.steps.transform_meter import Work, apart
from tests.workflow.engine.beats import beats
from tests.workflow.steps.context import Context


class Answering:
    """Another host, as `Outside` gives it."""

    def __init__(self, kind: str, body: bytes) -> None:
        self._kind = kind
        self._body = body

    async def request(self, *_: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"content-type": self._kind}, self._body


async def answered(kind: str, body: bytes) -> Any:
    step = ActionStep(id="a", action="http_request", url="http://a")
    result: Result = await action(step, Context(step, outside=Answering(kind, body)))  # type: ignore[arg-type]
    return result.value["body"]


@pytest.mark.alone
@pytest.mark.parametrize(
    "body", [b"[" + b"0," * 8_000_000 + b"0]", b"[" * 8_000_000, b"[" + b"[]," * 5_000_000 + b"0]"]
)
async def test_answers_of_millions_of_parts_are_refused_before_they_are_read(body: bytes):
    async with beats() as seen:
        with pytest.raises(StepFailed) as caught:
            await answered("application/json", body)
    assert caught.value.kind == "too_large"
    assert seen.longest < 0.25


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("utf-8", "é"), ("UTF8", "é"), ('"utf-8"', "é"), ("latin-1", "é"), ("iso-8859-15", "€"), ("windows-1252", "€"),
        ("utf-16", "é"), ("utf-16le", "é"), ("us-ascii", "e"),
    ],
)  # fmt: skip
async def test_charsets_that_are_known(charset: str, text: str):
    body = text.encode(charset.strip('"'))
    assert await answered(f"text/plain; charset={charset}", body) == text


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "utf-7", "rot13", "base64", "unicode_escape", "mbcs", "x" * 99]
)
async def test_other_codecs_are_no_charsets(charset: str):
    since = time.thread_time()
    assert await answered(f"text/plain; charset={charset}", b"a-" + b"zzz9" * 250_000) == "a-" + "zzz9" * 250_000
    assert time.thread_time() - since < 1.0
    assert await answered(f"text/plain; charset={charset}", b"\xff") == "\ufffd"


# Threads.


def pattern(run_id: str) -> tuple[TransformStep, Context]:
    step = TransformStep(id="t", operation="regex", input=None, pattern="^(a|aa)+$")
    context = Context(step, filled={"input": "a" * 60 + "b"})
    context.run_id = run_id
    return step, context


@pytest.mark.alone
@pytest.mark.slow
async def test_a_pattern_is_tried_shortly_and_then_no_longer_than_a_second():
    since = time.monotonic()
    async with beats() as seen:
        with pytest.raises(StepFailed, match="longer than 1 s") as caught:
            await transform(*pattern("r"))
    assert caught.value.kind == "timeout"
    assert time.monotonic() - since < 5.0
    assert seen.longest < 0.02


@pytest.mark.slow
async def test_a_run_has_one_thread_at_a_time():
    """So that another one has the other."""
    many = [asyncio.create_task(transform(*pattern("busy"))) for _ in range(8)]
    await asyncio.sleep(0.05)
    step = TransformStep(id="t", operation="split", input=None, separator=",")
    context = Context(step, filled={"input": "a," * 60_000})
    context.run_id = "other"
    result = await transform(step, context)
    assert len(result.value) == 60_001
    assert not any(task.done() for task in many[2:])
    for task in many:
        task.cancel()
    await asyncio.wait(many)


async def test_who_gives_up_in_line_keeps_nobody():
    gate, order = asyncio.Event(), []

    async def one(name: str) -> None:
        order.append(await apart("r", lambda _: name))

    loop = asyncio.get_running_loop()
    first = asyncio.create_task(apart("r", lambda _: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)))
    await asyncio.sleep(0)
    second, third = asyncio.create_task(one("second")), asyncio.create_task(one("third"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    await asyncio.sleep(0.05)
    assert order == []
    gate.set()
    await first
    await asyncio.wait_for(third, 10)
    assert order == ["third"]
    async with asyncio.timeout(10):
        while transform_meter._lines[loop]:
            await asyncio.sleep(0)


def test_what_is_told_of_the_time_is_true():
    assert "longer than 2 s" in Work(2.0).late().message
