"""How many passages a request gets, from a store that is really searched, and what becomes of a prompt without any."""

from collections.abc import AsyncIterator, Coroutine

import msgspec
import pytest

from config.schema import RouteSection
from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.core.messages import PromptRequest, RagOutput
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.edge.citations import citations
from pipeline.policy.concurrency import FixedLimit
from pipeline.policy.lane import Lane, Rules
from pipeline.stages.assemble import AssembleStage, PromptPlan, assemble
from pipeline.stages.course import Course
from pipeline.stages.rag import RagStage
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate
from tests.knowledge.helpers import SEA
from workers.base import ChatMessage, EmbeddingRequest, Parameters
from workers.lexical import Lexical
from workers.tokens import estimate

QUESTION = "the lamp, the ferry and the tide"


@pytest.fixture
async def library() -> AsyncIterator[MemoryRetriever]:
    retriever = MemoryRetriever(Lexical())
    await retriever.add("docs", "sea.md", SEA)
    yield retriever
    await retriever.aclose()


def request(course: Course, most: int | None) -> PromptRequest:
    ticket = Ticket("r1", 0.0, lambda _: None)
    messages = (ChatMessage("user", QUESTION),)
    return PromptRequest(
        ticket, "r1", None, "r", messages, QUESTION, Parameters(), True, 1e9, most_passages=most, course=course
    )


async def found(
    retriever: MemoryRetriever | None, most: int | None, embedding: EmbeddingRequest | None = None, **route: object
) -> RagOutput:
    """What the stage makes of a request; without a task where there is nothing to wait for."""
    section = msgspec.convert({"name": "r", "worker": "w", "collection": "docs", **route}, RouteSection)
    following = AssembleStage(StageQueue(1), None, 1, lambda: 0.0, estimate=estimate)  # type: ignore[arg-type]
    stage = RagStage(StageQueue(1), following, 1, lambda: 0.0, retriever=retriever)
    course = Course(section, Lane("w", FixedLimit(1), Rules()), PromptPlan(1000, 100))
    asked = request(course, most)
    if embedding is not None:
        asked = msgspec.structs.replace(asked, messages=(), question="", embedding=embedding)
    output = stage.handle(asked)
    if isinstance(output, Coroutine):
        output = await output
    assert output is not None
    return output


@pytest.mark.parametrize(
    ("configured", "most", "expected"), [(3, None, 3), (3, 2, 2), (2, 3, 2), (3, 1, 1), (1, 100, 1)]
)
async def test_a_request_gets_the_fewer_of_what_its_route_retrieves_and_what_it_may_have(
    library, configured, most, expected
):
    everything = (await found(library, None, passages=3)).passages
    assert len(everything) == len(SEA)
    output = await found(library, most, passages=configured)
    assert output.passages == everything[:expected]  # the best of them
    assert output.request.ticket.passages == expected


async def test_a_request_that_gets_no_passages_is_not_searched_for():
    output = await found(None, 0)  # a search would say that there are no collections
    assert output.passages == ()
    assert not output.degraded
    assert output.request.ticket.passages == 0


async def test_a_request_for_embeddings_is_not_searched_for():
    output = await found(None, None, EmbeddingRequest("r1", "r", ("a text",)))
    assert (output.passages, output.degraded) == ((), False)


async def test_a_prompt_without_passages_is_made_by_the_template_all_the_same(library):
    source = "Rules.{% for p in passages %} [{{ p.number }}] {{ p.text }}{% endfor %}"
    plan = PromptPlan(1000, 100, template=PromptTemplate(source, max_chars=10_000, timeout=1.0))
    with_one = assemble(await found(library, 1), plan, estimate)
    assert "[1] " in with_one.messages[0].text
    out = assemble(await found(library, 0), plan, estimate)
    assert [message.text for message in out.messages] == ["Rules.", QUESTION]
    assert out.rewritten
    assert (out.passages, bool(out.cut), citations(out.passages)) == ((), False, [])
    assert out.prompt_tokens < with_one.prompt_tokens

    usual = PromptPlan(1000, 100, template=PromptTemplate(DEFAULT_TEMPLATE, max_chars=10_000, timeout=1.0))
    out = assemble(await found(library, 0), usual, estimate)  # nothing was looked for, and nothing is said of it
    assert [message.text for message in out.messages] == [QUESTION]
