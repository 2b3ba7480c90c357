import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pipeline.core.errors import ContextLength
from pipeline.core.messages import AssembleOutput, Cut, PromptRequest, RagOutput
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.stages.assemble import ASK_SECONDS, AssembleStage, PromptPlan, assemble, learn, split_turns
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate
from workers.base import ChatMessage, EmbeddingRequest, GenerationRequest, Parameters, Passage

NOWHERE: Any = None  # the stage after this one: what is made is looked at here


def words(text: str) -> int:
    return len(text.split())


def message(role: str, text: str) -> ChatMessage:
    return ChatMessage(role, text)  # type: ignore[arg-type]


def rag(messages: list[ChatMessage], passages: tuple[Passage, ...] = (), max_tokens: int | None = None) -> RagOutput:
    ticket = Ticket("r1", 0.0, lambda _: None)
    question = messages[-1].text
    parameters = Parameters(max_tokens=max_tokens)
    return RagOutput(PromptRequest(ticket, "r1", None, "r", tuple(messages), question, parameters, True, 1e9), passages)


def template(source: str = DEFAULT_TEMPLATE) -> PromptTemplate:
    return PromptTemplate(source, max_chars=100_000, timeout=1.0)


TALK = [
    message("system", "be brief"),
    message("user", "first question"),
    message("assistant", "first answer"),
    message("user", "second question"),
]


def test_without_template_and_cut_the_messages_go_as_they_came():
    out = assemble(rag(TALK), PromptPlan(1000, 100), words)
    assert list(out.messages) == TALK
    assert not out.rewritten
    assert not out.cut


def test_older_turns_go_first_and_whole():
    talk = [
        message("system", "s"),
        message("user", "one " * 30),
        message("assistant", "call"),
        message("tool", "result " * 30),
        message("user", "two"),
        message("assistant", "answer"),
        message("user", "three"),
    ]
    out = assemble(rag(talk), PromptPlan(150, 100), words)
    assert [m.text for m in out.messages] == ["s", "two", "answer", "three"]
    assert out.cut == Cut(passages=0, turns=1)
    assert out.rewritten


def test_passages_stay_by_score_before_older_turns():
    passages = tuple(Passage("word " * 20, f"{n}.md", n, 1.0 - n / 10) for n in range(4))
    plan = PromptPlan(250, 50, template=template("{% for p in passages %}{{ p.text }}{% endfor %}"))
    out = assemble(rag(TALK, passages), plan, words)
    assert [p.source for p in out.passages] == ["0.md", "1.md", "2.md", "3.md"]
    narrow = PromptPlan(140, 50, template=plan.template)
    out = assemble(rag(TALK, passages), narrow, words)
    assert [p.source for p in out.passages] == ["0.md"]
    assert out.cut.passages == 3
    assert [m.role for m in out.messages][-1] == "user"


def test_the_template_makes_the_one_system_message():
    passages = (Passage("Queues are bounded.", "q.md", 0, 1.0),)
    out = assemble(rag(TALK, passages), PromptPlan(1000, 100, "You are Headgate.", template()), words)
    first = out.messages[0]
    assert first.role == "system"
    assert first.text.startswith("You are Headgate.\n\nbe brief")
    assert "[1] q.md" in first.text
    assert [m.role for m in out.messages] == ["system", "user", "assistant", "user"]
    assert out.rewritten


def test_what_must_stay_and_does_not_fit_is_an_error_with_the_numbers():
    with pytest.raises(ContextLength, match="150 tokens"):
        assemble(rag([message("user", "word " * 100)]), PromptPlan(150, 100), words)


def test_max_tokens_takes_from_the_window():
    talk = [message("user", "word " * 50)]
    assemble(rag(talk, max_tokens=10), PromptPlan(100, 90), words)
    with pytest.raises(ContextLength):
        assemble(rag(talk, max_tokens=90), PromptPlan(100, 10), words)


def test_a_conversation_may_start_with_an_answer_or_be_nothing_but_system():
    assert split_turns([message("assistant", "hi"), message("user", "q")])[1][0][0].role == "assistant"
    system, turns = split_turns([message("system", "s")])
    assert (len(system), turns) == (1, [[]])


roles = st.sampled_from(["system", "user", "assistant", "tool"])


@given(
    st.lists(st.tuples(roles, st.integers(0, 40)), min_size=1, max_size=12),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(60, 400),
)
def test_never_over_budget_and_the_newest_turn_always_stays(talk: list[tuple[str, int]], sizes: list[int], window: int):
    messages = [message(role, "w " * size) for role, size in talk]
    passages = tuple(Passage("w " * size, "s", n, 1.0 / (n + 1)) for n, size in enumerate(sizes))
    plan = PromptPlan(window, 20, template=template("{% for p in passages %}{{ p.text }}{% endfor %}{{ system }}"))
    try:
        out: AssembleOutput = assemble(rag(messages, passages), plan, words)
    except ContextLength:
        return
    assert sum(words(m.text) + 4 for m in out.messages) <= window - 20
    newest = split_turns(messages)[1][-1]
    assert list(out.messages[len(out.messages) - len(newest) :]) == newest
    assert out.passages == passages[: len(out.passages)]
    assert out.cut.passages == len(passages) - len(out.passages)


class Counting:
    """A counter of words whose model makes `true` tokens of each, and whose server knows that; None: it does not
    tell."""

    count = staticmethod(words)
    inline_chars = 10_000
    can_ask = True

    def __init__(self, factor: float = 1.0, true: float | None = None) -> None:
        self.factor = factor
        self.true = true
        self.asks = True
        self.asked: list[int] = []  # words of each prompt
        self.learnt: list[tuple[int, int]] = []

    async def ask(self, request: GenerationRequest, within: float) -> int | None:
        assert 0.0 < within <= ASK_SECONDS
        self.asked.append(sum(words(m.text) for m in request.messages))
        return None if self.true is None else round(self.true * self.asked[-1])

    def learn(self, counted: int, reported: int) -> None:
        self.learnt.append((counted, reported))


def on_course(message: RagOutput, plan: PromptPlan, **fields: object) -> RagOutput:
    request = structs.replace(message.request, course=SimpleNamespace(plan=plan), **fields)
    return structs.replace(message, request=request)


@asynccontextmanager
async def assembling() -> AsyncIterator[Callable[[RagOutput], Awaitable[AssembleOutput]]]:
    stage = AssembleStage(StageQueue(4), NOWHERE, 2, asyncio.get_running_loop().time, estimate=words)

    async def handle(message: RagOutput) -> AssembleOutput:
        out = stage.handle(message)
        made = out if isinstance(out, AssembleOutput) else await out
        assert made is not None
        assert message.request.ticket.prompt_tokens == made.prompt_tokens
        return made

    try:
        yield handle
    finally:
        stage.close()


LONG_TALK = [turn for n in range(8) for turn in (message("user", f"q{n} " * 10), message("assistant", f"a{n} " * 10))]
LONG_TALK.append(message("user", "now " * 10))


def test_the_factor_makes_the_window_smaller_and_the_prompt_longer():
    out = assemble(rag(TALK), PromptPlan(1000, 100), words, 2.0)
    plain = assemble(rag(TALK), PromptPlan(1000, 100), words)
    assert (out.prompt_tokens, out.counted) == (2 * plain.prompt_tokens, plain.prompt_tokens)
    assert assemble(rag(LONG_TALK), PromptPlan(400, 100), words).cut == Cut()
    cut = assemble(rag(LONG_TALK), PromptPlan(400, 100), words, 2.0)
    assert cut.cut.turns > 0
    assert cut.prompt_tokens == 2 * cut.counted <= 300
    with pytest.raises(ContextLength, match="take about 162"):
        assemble(rag([message("user", "w " * 100)]), PromptPlan(200, 100), words, 1.5)


async def test_far_from_the_window_nobody_is_asked():
    counter = Counting(true=1.0)
    async with assembling() as handle:
        await handle(on_course(rag(TALK), PromptPlan(1000, 100, counter=counter)))
    assert counter.asked == []


async def test_near_the_window_the_server_is_asked_and_believed():
    counter = Counting(factor=2.0, true=0.9)
    async with assembling() as handle:
        out = await handle(on_course(rag(LONG_TALK), PromptPlan(400, 100, counter=counter)))
    assert (out.cut, out.rewritten) == (Cut(), False)  # by our own count, twice as long, turns would have been cut
    assert counter.asked == [170]
    assert out.prompt_tokens == 153
    assert counter.learnt == [(238, 153)]


async def test_what_is_too_long_by_the_server_s_count_is_cut_by_it_and_asked_about_again():
    counter = Counting(true=4.0)
    async with assembling() as handle:
        out = await handle(on_course(rag(LONG_TALK), PromptPlan(400, 100, counter=counter)))
    assert out.cut.turns > 0
    assert out.rewritten
    assert len(counter.asked) == 2
    assert out.prompt_tokens == 4 * counter.asked[-1] <= 300


async def test_what_must_stay_is_counted_by_itself_before_it_is_refused():
    """The older turns made the ratio; the newest one alone is short by the server's count."""
    old = [message("user", "dense " * 200), message("assistant", "ok")]
    talk = [*old, message("user", "now " * 120)]

    class Uneven(Counting):
        async def ask(self, request: GenerationRequest, within: float) -> int | None:
            await super().ask(request, within)
            return sum(words(m.text) * (9 if "dense" in m.text else 1) for m in request.messages)

    counter = Uneven()
    async with assembling() as handle:
        out = await handle(on_course(rag(talk), PromptPlan(350, 50, counter=counter)))
        assert [m.text for m in out.messages] == [talk[-1].text]
        assert (out.prompt_tokens, out.cut, counter.asked) == (120, Cut(0, 1), [321, 120])
        with pytest.raises(ContextLength, match="take about 2700"):
            await handle(on_course(rag([message("user", "dense " * 300)]), PromptPlan(350, 50, counter=counter)))


@pytest.mark.parametrize("talk", [LONG_TALK, [message("user", "w " * 6000)]], ids=["inline", "thread"])
async def test_a_server_that_does_not_tell_leaves_the_decision_to_the_estimate(talk: list[ChatMessage]):
    counter = Counting(factor=2.0)
    plan = PromptPlan(400, 100, counter=counter)
    async with assembling() as handle:
        try:
            expected: object = assemble(rag(talk), plan, words, 2.0).cut
        except ContextLength as error:
            expected = str(error)
        try:
            found: object = (await handle(on_course(rag(talk), plan))).cut
        except ContextLength as error:
            found = str(error)
    assert found == expected
    assert len(counter.asked) == 1


async def test_a_request_for_embeddings_passes_with_the_length_of_its_inputs():
    counter = Counting(factor=2.0)
    plan = PromptPlan(30, 10, "a system message", template(), counter)
    for texts, tokens in ((("one two", "three"), 6), (((1, 2, 3), (4,)), 4), (("long " * 5000,), 10_000)):
        asked = EmbeddingRequest("r1", "m", texts)
        message = on_course(rag(TALK), plan, messages=(), embedding=asked, body=b"{}")
        async with assembling() as handle:
            out = await handle(message)
        assert (out.messages, out.prompt_tokens, out.counted) == ((), tokens, 0)
    assert counter.asked == []


@pytest.mark.parametrize(
    ("body", "learns"),
    [
        (b"", True),
        (b'{"messages":[{"role":"user","content":"all the \\"tools\\""}]}', True),
        (b'{"messages":[],"tools":[{"type":"function"}]}', False),
        (b'{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}', False),
    ],
)
def test_only_prompts_of_nothing_but_text_teach(body: bytes, learns: bool):
    counter = Counting()
    out = assemble(
        on_course(rag(TALK), PromptPlan(1000, 100, counter=counter), body=body), PromptPlan(1000, 100), words
    )
    learn(out, 77)
    assert counter.learnt == ([(out.counted, 77)] if learns else [])
