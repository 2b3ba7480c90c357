"""How a prompt is made of messages and passages, within the model's token budget, and how its length is learnt."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Protocol

import msgspec

from pipeline.core.errors import ContextLength
from pipeline.core.messages import AssembleOutput, Cut, PromptRequest, RagOutput
from pipeline.policy.budget import fit
from pipeline.stages.template import PromptTemplate
from workers.base import ChatMessage, GenerationRequest

MESSAGE_TOKENS = 4  # what a chat format adds around each message
PASSAGE_TOKENS = 16  # what a template adds around each passage

Estimate = Callable[[str], int]

NO_CUT = Cut()
# What a body may hold that takes tokens and is no text of a message.
_MORE_THAN_TEXT = (b'"tools"', b'"functions"', b'"response_format"', b'"image_url"', b'"input_audio"', b'"file"')


class Counter(Protocol):
    """How long prompts are for the model that reads them. See `workers.counting.Counter`.

    `count` gives the tokens of one text; `factor` of the model's own are one of them. Texts of up to `inline_chars` are
    counted on the event loop.
    """

    count: Estimate
    factor: float
    inline_chars: int
    can_ask: bool  # the model's server may know; `asks` says whether it is worth a question now

    @property
    def asks(self) -> bool: ...

    async def ask(self, request: GenerationRequest, within: float) -> int | None:
        """The tokens of a whole prompt, None where there is no answer within so many seconds. Does not raise."""
        ...

    def learn(self, counted: int, reported: int) -> None: ...


class PromptPlan(msgspec.Struct, frozen=True):
    """How one route's prompts are made for one worker. `context_tokens` is the model's window, of which `answer_tokens`
    stay free for the answer unless the request sets max_tokens; without a `template` the messages go as they came.
    `counter` is the worker's; without one, tokens are those of the stage's estimate."""

    context_tokens: int
    answer_tokens: int
    system: str = ""
    template: PromptTemplate | None = None
    counter: Counter | None = None


def assemble(message: RagOutput, plan: PromptPlan, count: Estimate, factor: float = 1.0) -> AssembleOutput:
    """Makes the prompt. A pure function of its arguments: `factor` tokens of the model are one that `count` counts."""
    request = message.request
    if plan.template is None and not plan.system:
        tokens = 0
        for m in request.messages:
            tokens += MESSAGE_TOKENS + count(m.text)
        scaled = tokens if factor == 1.0 else ceil(tokens * factor)
        if scaled <= plan.context_tokens - (request.parameters.max_tokens or plan.answer_tokens):
            return AssembleOutput(request, message, request.messages, (), NO_CUT, False, scaled, tokens)
    return _fitted(message, plan, count, factor)


def learn(message: AssembleOutput, reported: int) -> None:
    """To be called once the model that a prompt was made for has said how many tokens it was: its worker's counter
    learns from it, if the prompt was text and nothing else."""
    counter: Counter | None = message.request.course.plan.counter
    if counter is None or not message.counted:
        return
    body = message.request.body
    if not any(mark in body for mark in _MORE_THAN_TEXT):
        counter.learn(message.counted, reported)


def _fitted(message: RagOutput, plan: PromptPlan, count: Estimate, factor: float) -> AssembleOutput:
    request = message.request
    system, turns = split_turns(request.messages)
    costs = [sum(_tokens(m, count) for m in turn) for turn in turns]
    system_text = "\n\n".join(text for text in (plan.system, *(m.text for m in system)) if text)
    made = plan.template is not None or bool(plan.system)
    fixed = costs[-1] + MESSAGE_TOKENS + count(system_text)
    if plan.template is not None:
        fixed += count(plan.template.source)
    left = room(plan, request)
    budget = left if factor == 1.0 else int(left / factor)
    passage_costs = [count(p.text) + count(p.title) + count(p.source) + PASSAGE_TOKENS for p in message.passages]
    kept = fit(budget, fixed, passage_costs, costs[-2::-1])
    if kept.spare < 0:
        raise too_long(plan, request, ceil(fixed * factor))
    passages = message.passages[: kept.passages]
    cut = Cut(len(message.passages) - kept.passages, len(turns) - 1 - kept.turns)
    if plan.template is not None:
        searched = request.most_passages != 0  # under load it may not have been
        system_text = plan.template.render(
            system=system_text, question=request.question, passages=passages, searched=searched
        )
    tail = [m for turn in turns[len(turns) - 1 - kept.turns :] for m in turn]
    head = [ChatMessage("system", system_text)] if made and system_text else list(system) if not made else []
    return AssembleOutput(
        request,
        message,
        (*head, *tail),
        passages,
        cut,
        made or cut.turns > 0,
        min(ceil((budget - kept.spare) * factor), left),
        budget - kept.spare,
    )


def split_turns(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[list[ChatMessage]]]:
    """The system messages at the start, and the turns after them: each starts with a user message and holds what
    answers it, so that a tool's result never loses the call it belongs to. There is always at least one turn."""
    start = 0
    while start < len(messages) and messages[start].role in ("system", "developer"):
        start += 1
    turns: list[list[ChatMessage]] = []
    for message in messages[start:]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns or [[]]


def _tokens(message: ChatMessage, count: Estimate) -> int:
    return MESSAGE_TOKENS + count(message.text)


def room(plan: PromptPlan, request: PromptRequest) -> int:
    """Tokens that the prompt may have."""
    return plan.context_tokens - (request.parameters.max_tokens or plan.answer_tokens)


def too_long(plan: PromptPlan, request: PromptRequest, tokens: int) -> ContextLength:
    answer = request.parameters.max_tokens or plan.answer_tokens
    return ContextLength(
        f"This model's context is {plan.context_tokens} tokens: {answer} are kept for the answer, and the system"
        f" message and newest turn alone take about {tokens}. Shorten them or lower max_tokens.",
        param="messages",
    )
