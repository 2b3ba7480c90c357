"""Assemble: messages and passages become the prompt, within the model's token budget."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from pipeline.core.errors import ContextLength
from pipeline.core.messages import AssembleOutput, Cut, PromptRequest, RagOutput
from pipeline.core.outcomes import Place
from pipeline.core.queue import StageQueue
from pipeline.policy.budget import fit
from pipeline.stages.base import Clock, Stage
from pipeline.stages.template import PromptTemplate
from workers.base import ChatMessage

INLINE_CHARS = 64 * 1024  # longer prompts are assembled in a thread: the event loop has others to serve
MESSAGE_TOKENS = 4  # what a chat format adds around each message
PASSAGE_TOKENS = 16  # what a template adds around each passage

Estimate = Callable[[str], int]

_NO_CUT = Cut()


class PromptPlan(msgspec.Struct, frozen=True):
    """How one route's prompts are made for one worker. `context_tokens` is the model's window, of which `answer_tokens`
    stay free for the answer unless the request sets max_tokens; without a `template` the messages go as they came."""

    context_tokens: int
    answer_tokens: int
    system: str = ""
    template: PromptTemplate | None = None


class AssembleStage(Stage[RagOutput, AssembleOutput]):
    """Keeps the system message and the newest turn always, then passages by score, then older turns, newest first;
    what did not fit is recorded as `Cut`. Raises `ContextLength` when what must stay is too long."""

    place = Place.ASSEMBLE

    def __init__(
        self,
        inbox: StageQueue[RagOutput],
        following: Stage[Any, Any],
        concurrency: int,
        clock: Clock,
        *,
        estimate: Estimate,
    ) -> None:
        super().__init__(inbox, following, concurrency, clock)
        self._estimate = estimate
        self._threads = _threads(concurrency)

    def resize(self, capacity: int, concurrency: int) -> None:
        if concurrency != self.concurrency:
            self._threads.shutdown(wait=False)  # after what it was given
            self._threads = _threads(concurrency)
        super().resize(capacity, concurrency)

    def handle(self, message: RagOutput) -> AssembleOutput | Coroutine[Any, Any, AssembleOutput | None]:
        plan: PromptPlan = message.request.course.plan
        if _chars(message) > INLINE_CHARS:
            return self._in_thread(message, plan)
        return self._recorded(assemble(message, plan, self._estimate))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, message: RagOutput, plan: PromptPlan) -> AssembleOutput:
        loop = asyncio.get_running_loop()
        return self._recorded(await loop.run_in_executor(self._threads, assemble, message, plan, self._estimate))

    def _recorded(self, output: AssembleOutput) -> AssembleOutput:
        ticket = output.request.ticket
        ticket.prompt_tokens = output.prompt_tokens
        ticket.passages = len(output.passages)
        ticket.cut = output.cut
        return output


def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="assemble")


def assemble(message: RagOutput, plan: PromptPlan, estimate: Estimate) -> AssembleOutput:
    """Makes the prompt. A pure function of its arguments."""
    request = message.request
    if plan.template is None and not plan.system:
        tokens = 0
        for m in request.messages:
            tokens += MESSAGE_TOKENS + estimate(m.text)
        if tokens <= plan.context_tokens - (request.parameters.max_tokens or plan.answer_tokens):
            return AssembleOutput(request, message, request.messages, (), _NO_CUT, False, tokens)
    return _fitted(message, plan, estimate)


def _fitted(message: RagOutput, plan: PromptPlan, estimate: Estimate) -> AssembleOutput:
    request = message.request
    system, turns = split_turns(request.messages)
    costs = [sum(_tokens(m, estimate) for m in turn) for turn in turns]
    system_text = "\n\n".join(text for text in (plan.system, *(m.text for m in system)) if text)
    made = plan.template is not None or bool(plan.system)
    fixed = costs[-1] + MESSAGE_TOKENS + estimate(system_text)
    if plan.template is not None:
        fixed += estimate(plan.template.source)
    budget = plan.context_tokens - (request.parameters.max_tokens or plan.answer_tokens)
    passage_costs = [
        estimate(p.text) + estimate(p.title) + estimate(p.source) + PASSAGE_TOKENS for p in message.passages
    ]
    kept = fit(budget, fixed, passage_costs, costs[-2::-1])
    if kept.spare < 0:
        raise ContextLength(_too_long(plan, request, fixed), param="messages")
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


def _tokens(message: ChatMessage, estimate: Estimate) -> int:
    return MESSAGE_TOKENS + estimate(message.text)


def _chars(message: RagOutput) -> int:
    chars = 0
    for m in message.request.messages:
        chars += len(m.text)
    for passage in message.passages:
        chars += len(passage.text)
    return chars


def _too_long(plan: PromptPlan, request: PromptRequest, fixed: int) -> str:
    answer = request.parameters.max_tokens or plan.answer_tokens
    return (
        f"This model's context is {plan.context_tokens} tokens: {answer} are kept for the answer, and the system"
        f" message and newest turn alone take about {fixed}. Shorten them or lower max_tokens."
    )
