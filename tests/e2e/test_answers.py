"""The daemon as its users meet it: real processes, the sample documents, the official client."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionUserMessageParam

from tests.process.daemon import ROOT, Daemon, configured, serving

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CONFIG = """
[[workers]]
name = "quotes"
kind = "extractive"

[[workers]]
name = "echo"
kind = "echo"

[[workers]]
name = "slow"
kind = "echo"
first_token_ms = 5000

[[workers]]
name = "failing"
kind = "echo"
failure_rate = 1.0

[[collections]]
name = "docs"

[[routes]]
name = "docs-qa"
worker = "quotes"
collection = "docs"

[[routes]]
name = "echo"
worker = "echo"

[[routes]]
name = "slow"
worker = "slow"

[[routes]]
name = "failing"
worker = "failing"
"""
QUESTION = "What happens when a queue is full?"


def user(text: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": text}]


async def headgate(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline.cli", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """Serves the repository's documentation, ingested while it runs."""
    path = configured(tmp_path_factory.mktemp("daemon"), CONFIG)
    async with serving(path) as running:
        status, out, err = await headgate("ingest", "--sample", "--config", str(path))
        assert status == 0, err
        assert "added" in out
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{daemon.address}/v1", api_key="none", max_retries=0) as official:
        yield official


async def test_a_cited_answer_about_the_sample_documents(client: openai.AsyncOpenAI):
    answer = await client.chat.completions.create(model="docs-qa", messages=user(QUESTION))
    text = answer.choices[0].message.content
    assert text is not None
    assert "a request that wants in is refused at once" in text
    citations = answer.model_extra["citations"]
    cited = [c for c in citations if f"[{c['index']}]" in text]
    assert any(c["source"] == "docs/discussion/data-path.md" for c in cited)
    assert all(c["text"] for c in cited)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


async def test_what_the_documents_do_not_tell_is_said_to_be_so(client: openai.AsyncOpenAI):
    answer = await client.chat.completions.create(model="docs-qa", messages=user("Who won the chess olympiad in 1974?"))
    assert "nothing in the documents" in (answer.choices[0].message.content or "")


async def test_a_streamed_answer_is_the_same_and_carries_its_citations(client: openai.AsyncOpenAI):
    whole = await client.chat.completions.create(model="docs-qa", messages=user(QUESTION))
    stream = await client.chat.completions.create(
        model="docs-qa", messages=user(QUESTION), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].model_extra["citations"] == whole.model_extra["citations"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert sum(c.usage is not None for c in chunks) == 1
    assert len({c.id for c in chunks}) == 1


async def test_the_synchronous_client(daemon: Daemon):
    def ask() -> tuple[str | None, str, list[str]]:
        with openai.OpenAI(base_url=f"{daemon.address}/v1", api_key="none") as official:
            answer = official.chat.completions.create(model="echo", messages=user("hello there"))
            stream = official.chat.completions.create(model="echo", messages=user("hello there"), stream=True)
            text = "".join(c.choices[0].delta.content or "" for c in stream)
            return answer.choices[0].message.content, text, [m.id for m in official.models.list()]

    whole, streamed, models = await asyncio.to_thread(ask)
    assert (whole, streamed) == ("hello there", "hello there")
    assert models == ["docs-qa", "echo", "slow", "failing"]


async def test_errors_are_those_of_the_official_client(client: openai.AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nope", messages=user("hi"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        await client.chat.completions.create(model="echo", messages=[])
    assert empty.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nope")
    assert (await client.models.retrieve("echo")).id == "echo"
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="failing", messages=user("hi"))
    assert (failed.value.status_code, failed.value.code) == (502, "backend_error")
    headers = {"X-Request-Timeout-Ms": "100"}
    with pytest.raises(openai.InternalServerError) as late:
        await client.chat.completions.create(model="slow", messages=user("hi"), extra_headers=headers)
    assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="slow", messages=user("hi"), timeout=0.2)


async def test_ask_prints_the_answer_and_its_sources(daemon: Daemon):
    status, out, err = await headgate("ask", QUESTION, "--url", f"{daemon.address}/v1")
    assert status == 0, err
    assert "a request that wants in is refused at once" in out
    assert "docs/discussion/data-path.md" in out
    status, out, err = await headgate("ask", "hi", "--route", "nope", "--url", f"{daemon.address}/v1")
    assert status == 1
    assert "'nope' does not exist" in err
    status, _, err = await headgate("ask", "hi", "--url", "http://127.0.0.1:9/v1")
    assert status == 1
    assert "headgate serve" in err


async def test_demo_shows_ten_completed_prompts():
    status, out, _ = await headgate("demo")
    assert status == 0
    assert "10 prompts: 10 completed" in out
    for stage in ("rag", "assemble", "inference", "post", "stream"):
        assert out.count(f" {stage} ") >= 10, stage


async def test_ingesting_again_changes_nothing(daemon: Daemon):
    folder = Path(daemon._log).parent
    status, out, _ = await headgate(
        "ingest", "README.md", "docs", "--collection", "docs", "--config", str(folder / "pipeline.toml")
    )
    assert status == 0
    assert "0 added, 0 updated" in out
