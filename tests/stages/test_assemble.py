import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ContextLength
from pipeline.core.messages import AssembleOutput, Cut, PromptRequest, RagOutput
from pipeline.core.ticket import Ticket
from pipeline.stages.assemble import PromptPlan, assemble, split_turns
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate
from workers.base import ChatMessage, Parameters, Passage


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
