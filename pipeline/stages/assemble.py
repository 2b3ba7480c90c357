"""Assemble: messages and passages become the prompt, within the model's token budget."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import Any, TypeVar

from msgspec.structs import replace

from pipeline.core.errors import ContextLength, InvalidRequest
from pipeline.core.messages import AssembleOutput, Cut, RagOutput
from pipeline.core.outcomes import Place
from pipeline.core.queue import StageQueue
from pipeline.stages.base import Clock, Stage
from pipeline.stages.prompt import (
    NO_CUT,
    Counter,
    Estimate,
    PromptPlan,
    assemble,
    learn,
    room,
    split_turns,
    too_long,
)
from workers.base import EmbeddingRequest, GenerationRequest

__all__ = ["AssembleStage", "Counter", "Estimate", "PromptPlan", "assemble", "learn", "split_turns"]

INLINE_CHARS = 64 * 1024  # longer prompts are assembled in a thread: the event loop has others to serve
ASK_FROM = 0.6  # of what the window leaves: from there on the model's server is asked how long a prompt is
ASK_SECONDS = 0.5  # for all that is asked about one prompt
ASK_ROUNDS = 3

R = TypeVar("R")

_ENDLESS = 1 << 60


class AssembleStage(Stage[RagOutput, AssembleOutput]):
    """Keeps the system message and the newest turn always, then passages by score, then older turns, newest first;
    what did not fit is recorded as `Cut`. Raises `ContextLength` when what must stay is too long.

    Where it comes near the window, the model's server is asked for the prompt's length before anything is cut or
    refused, if it can tell; what is cut is then cut by its measure. A request for embeddings has no prompt: it passes
    with the length of its inputs.

    What is too long for a worker that stands in for one that failed is handed on as `unfit`: another one may do."""

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
        self._usual: Counter = _Estimated(estimate)
        self._threads = _threads(concurrency)

    def resize(self, capacity: int, concurrency: int) -> None:
        if concurrency != self.concurrency:
            self._threads.shutdown(wait=False)  # after what it was given
            self._threads = _threads(concurrency)
        super().resize(capacity, concurrency)

    def handle(self, message: RagOutput) -> AssembleOutput | Coroutine[Any, Any, AssembleOutput | None]:
        first = message.request.ticket.first_error
        if first is None or isinstance(first, InvalidRequest):
            return self._prompt(message)
        try:
            made = self._prompt(message)
        except ContextLength as error:
            return _unfit(message, error)
        return made if isinstance(made, AssembleOutput) else self._or_unfit(message, made)

    async def _or_unfit(self, message: RagOutput, made: Coroutine[Any, Any, AssembleOutput]) -> AssembleOutput:
        try:
            return await made
        except ContextLength as error:
            return _unfit(message, error)

    def _prompt(self, message: RagOutput) -> AssembleOutput | Coroutine[Any, Any, AssembleOutput]:
        request = message.request
        plan: PromptPlan = request.course.plan
        counter = plan.counter
        if counter is None:
            counter = self._usual
        # A body is longer than its messages.
        if not 0 < len(request.body) <= counter.inline_chars or message.passages or not request.messages:
            if _chars(message) > counter.inline_chars:
                return self._in_thread(message, plan, counter)
            if request.embedding is not None:
                return self._embedding(message, request.embedding, counter)
        if counter.can_ask:
            output = unless_asked(message, plan, counter)
            return self._asked(message, plan, counter) if output is None else _recorded(output)
        return _recorded(assemble(message, plan, counter.count, counter.factor))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, message: RagOutput, plan: PromptPlan, counter: Counter) -> AssembleOutput:
        output = await self._run(unless_asked, message, plan, counter)
        return await self._asked(message, plan, counter) if output is None else _recorded(output)

    async def _asked(self, message: RagOutput, plan: PromptPlan, counter: Counter) -> AssembleOutput:
        """Asks about the whole prompt first, and then about what is left of it, until that fits."""
        loop = asyncio.get_running_loop()
        until, factor = loop.time() + ASK_SECONDS, counter.factor
        candidate = await self._run(assemble, message, replace(plan, context_tokens=_ENDLESS), counter.count)
        least = False
        for _ in range(ASK_ROUNDS):
            tokens = await counter.ask(_generation(candidate), max(until - loop.time(), 0.0))
            if tokens is None:
                break
            learn(candidate, tokens)
            if tokens <= room(plan, message.request):
                return _recorded(replace(candidate, prompt_tokens=tokens, counted=0))
            if least:
                raise too_long(plan, message.request, tokens)
            factor = max(tokens / max(candidate.counted, 1), factor if candidate.cut else 0.0)
            try:
                candidate = await self._run(assemble, message, plan, counter.count, factor)
            except ContextLength:
                candidate, least = await self._run(_least, message, plan, counter.count), True
        return _recorded(await self._run(assemble, message, plan, counter.count, factor))

    def _embedding(
        self, message: RagOutput, asked: EmbeddingRequest, counter: Counter
    ) -> AssembleOutput | Coroutine[Any, Any, AssembleOutput]:
        if sum(len(text) for text in asked.inputs) <= counter.inline_chars:
            return _recorded(_inputs(message, asked, counter))

        async def in_thread() -> AssembleOutput:
            return _recorded(await self._run(_inputs, message, asked, counter))

        return in_thread()

    async def _run(self, function: Callable[..., R], /, *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _Estimated:
    """A `Counter` that knows nothing of the model."""

    factor = 1.0
    inline_chars = INLINE_CHARS
    can_ask = False
    asks = False

    def __init__(self, estimate: Estimate) -> None:
        self.count = estimate

    async def ask(self, request: GenerationRequest, within: float) -> None:  # noqa: ARG002 - the protocol's
        return None

    def learn(self, counted: int, reported: int) -> None:  # noqa: ARG002 - the protocol's
        return None


def _recorded(output: AssembleOutput) -> AssembleOutput:
    ticket = output.request.ticket
    ticket.prompt_tokens = output.prompt_tokens
    ticket.passages = len(output.passages)
    ticket.cut = output.cut
    return output


def _unfit(message: RagOutput, error: ContextLength) -> AssembleOutput:
    error.__traceback__ = None  # it travels on
    return AssembleOutput(message.request, message, (), (), NO_CUT, rewritten=False, prompt_tokens=0, unfit=error)


def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="assemble")


def unless_asked(message: RagOutput, plan: PromptPlan, counter: Counter) -> AssembleOutput | None:
    """The prompt; None where the model's server is to be asked about its length first."""
    try:
        output = assemble(message, plan, counter.count, counter.factor)
    except ContextLength:
        if counter.asks:
            return None
        raise
    near = output.prompt_tokens > ASK_FROM * room(plan, message.request) or output.cut
    return None if near and counter.asks else output


def _least(message: RagOutput, plan: PromptPlan, count: Estimate) -> AssembleOutput:
    """What must stay, and nothing else, however long it is."""
    request = message.request
    system, turns = split_turns(request.messages)
    alone = RagOutput(replace(request, messages=(*system, *turns[-1])), (), message.degraded)
    output = assemble(alone, replace(plan, context_tokens=_ENDLESS), count)
    cut = Cut(len(message.passages), len(turns) - 1)
    return replace(output, request=request, before=message, cut=cut, rewritten=output.rewritten or cut.turns > 0)


def _inputs(message: RagOutput, asked: EmbeddingRequest, counter: Counter) -> AssembleOutput:
    """Texts are counted, lists of tokens are as long as they are."""
    texts = sum(counter.count(text) for text in asked.inputs if isinstance(text, str))
    tokens = sum(len(text) for text in asked.inputs if not isinstance(text, str))
    return AssembleOutput(
        message.request, message, (), (), NO_CUT, rewritten=False, prompt_tokens=ceil(texts * counter.factor) + tokens
    )


def _generation(output: AssembleOutput) -> GenerationRequest:
    request = output.request
    return GenerationRequest(
        request.request_id,
        request.session_id,
        request.route,
        output.messages,
        request.parameters,
        request.stream,
        output.passages,
        request.body,
        output.rewritten,
        request.shortened,
    )


def _chars(message: RagOutput) -> int:
    chars = sum([len(m.text) for m in message.request.messages])
    return chars + sum([len(passage.text) for passage in message.passages])
