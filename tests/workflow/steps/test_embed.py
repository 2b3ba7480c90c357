"""`embed` steps, by a route and by a collection's embedder."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.workflow.definition import EmbedStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.steps.embed import embed
from tests.flows import config, running
from tests.workflow.steps.context import Context
from workers.lexical import Lexical


class Embedding:
    """A `Knowledge` that embeds."""

    async def embed(self, collection: str, text: str) -> list[float]:
        assert collection == "docs"
        return (await Lexical().embed([text], query=True))[0]

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Any]:
        raise AssertionError(collection, query, limit)

    async def upsert(self, collection: str, source: str, title: str, text: str) -> int:
        raise AssertionError(collection, source, title, text)


async def run(one: EmbedStep, conf: Any = None, **filled: Any) -> Any:
    async with running(conf or config()) as (pipeline, books):
        result = await embed(one, Context(one, prompts=IngressPrompts(pipeline.ingress), filled=filled))
    return result, books


async def test_one_text_is_one_vector():
    result, books = await run(EmbedStep(id="e", input="full queues shed", route="echo"))
    assert isinstance(result.value[0], float)
    assert result.fields["vectors"] == result.value
    assert result.fields["model"] == "echo"
    assert result.fields["usage"]["prompt_tokens"] == 3
    assert result.fields["metadata"] == {"route": "echo"}
    assert books.ended[0].session_id == "run-1"


async def test_many_texts_go_in_several_prompts_and_keep_their_order():
    texts = [f"text {number}" for number in range(600)]
    result, books = await run(EmbedStep(id="e", input="{{ texts }}", route="echo"), input=texts)
    assert len(result.value) == 600
    assert len(books.ended) == 3
    assert result.fields["usage"]["prompt_tokens"] == 1200
    single, _ = await run(EmbedStep(id="e", input="text 431", route="echo"))
    assert result.value[431] == single.value
    empty, books = await run(EmbedStep(id="e", input=[], route="echo"))
    assert (empty.value, books.ended) == ([], [])


async def test_by_a_collection():
    one = EmbedStep(id="e", input=["a b", "c"], collection="docs")
    result = await embed(one, Context(one, knowledge=Embedding()))
    assert result.value == await Lexical().embed(["a b", "c"], query=True)
    assert result.fields["metadata"] == {"collection": "docs"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (5, "input"),
        (None, "input"),
        ("", "input"),
        (["a", ""], "input[1]"),
        (["a", 1], "input[1]"),
        ({"a": "b"}, "input"),
    ],
)
async def test_inputs_that_are_no_texts(given: Any, field: str):
    with pytest.raises(StepFailed) as caught:
        await run(EmbedStep(id="e", input="{{ x }}", route="echo"), input=given)
    assert caught.value.kind == "invalid_input"
    assert caught.value.details["field"] == field


async def test_a_route_that_cannot_embed():
    conf = config(workers=[{"name": "x", "kind": "extractive"}])
    with pytest.raises(StepFailed) as caught:
        await run(EmbedStep(id="e", input="a", route="echo"), conf)
    assert not caught.value.retryable
    assert "cannot embed" in caught.value.message


async def test_too_many_texts():
    with pytest.raises(StepFailed, match="at most 10000"):
        await run(EmbedStep(id="e", input="{{ x }}", route="echo"), input=["a"] * 10_001)
