"""A real llama.cpp server with a tiny model behind the `openai` worker, through the whole daemon."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
import pytest_asyncio

from tests.process.daemon import Daemon, configured, serving
from tests.servers import TinyLlama, tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyLlama]:
    with tiny_llama(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(llama: TinyLlama, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    text = f"""
[[workers]]
name = "llama"
kind = "openai"
base_url = "{llama.base_url}"
context_tokens = 2048

[[routes]]
name = "chat"
worker = "llama"

[[routes]]
name = "renamed"
worker = "llama"
rename_model = true

[[routes]]
name = "no-numbers"
worker = "llama"
filters = [{{ kind = "redact", pattern = "\\\\d+", replacement = "#" }}]
"""
    async with serving(configured(tmp_path_factory.mktemp("daemon"), text)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(daemon: Daemon) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{daemon.address}/v1", api_key="none", max_retries=0) as official:
        yield official


async def text_of(client: openai.AsyncOpenAI, model: str = "chat", *, stream: bool = False, **options: object) -> str:
    asked = {
        "messages": [{"role": "user", "content": "w1 w2"}],
        "max_tokens": 24,
        "temperature": 0,
        "seed": 1,
        **options,
    }
    if not stream:
        answer = await client.chat.completions.create(model=model, **asked)
        return str(answer.choices[0].message.content)
    chunks = await client.chat.completions.create(model=model, stream=True, **asked)
    return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])


async def test_streamed_and_whole_answers_are_the_model_s(client: openai.AsyncOpenAI, llama: TinyLlama):
    async with openai.AsyncOpenAI(base_url=llama.base_url, api_key="none") as direct:
        expected = await text_of(direct)
    assert expected
    assert await text_of(client) == expected
    assert await text_of(client, stream=True) == expected


async def test_usage_and_the_model_s_own_fields_come_through(client: openai.AsyncOpenAI):
    message = [{"role": "user", "content": "w1"}]
    answer = await client.chat.completions.create(model="chat", messages=message, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"
    assert "timings" in (answer.model_extra or {})  # llama.cpp's own
    stream = await client.chat.completions.create(
        model="chat",
        messages=message,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    usages = [chunk.usage async for chunk in stream if chunk.usage is not None]
    assert [usage.completion_tokens for usage in usages] == [8]


async def test_a_route_may_answer_under_its_own_name(client: openai.AsyncOpenAI):
    message = [{"role": "user", "content": "w1"}]
    answer = await client.chat.completions.create(model="renamed", messages=message, max_tokens=2)
    assert answer.model == "renamed"


async def test_filters_work_on_real_tokens(client: openai.AsyncOpenAI):
    for stream in (True, False):
        text = await text_of(client, "no-numbers", stream=stream)
        assert "#" in text
        assert not any(character.isdigit() for character in text)


async def test_what_the_backend_refuses_is_told_with_its_words(client: openai.AsyncOpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        await text_of(client, response_format={"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}})
    assert refused.value.code == "backend_refused"


async def test_a_client_that_leaves_frees_the_model_s_slot(client: openai.AsyncOpenAI, llama: TinyLlama):
    stream = await client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "w1"}], stream=True, max_tokens=1500, temperature=2
    )
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(1.0):  # guarantee 6
        while await asyncio.to_thread(llama.busy):
            await asyncio.sleep(0.02)


async def test_many_at_once(client: openai.AsyncOpenAI):
    texts = await asyncio.gather(*(text_of(client, stream=n % 2 == 0) for n in range(24)))
    assert all(texts)
