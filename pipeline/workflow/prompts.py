"""Steps' prompts through the pipeline's own door, in the same process: the same admission, limits, stages and books as
a client's.

A run's first prompts go in its own class, later ones in the class above: what was begun is finished before more is
begun, also where ordinary prompts ask for more than there is. Class critical has none above it: there they stand beside
the others, in turn.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from pipeline.core.access import Caller
from pipeline.core.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    HeadgateError,
    Overloaded,
    RateLimited,
    RetrievalFailed,
    ShardLost,
    StageFailed,
    Unauthorized,
)
from pipeline.core.outcomes import Priority, Reason
from pipeline.core.ticket import Ticket
from pipeline.ingress import Ingress, Prompt
from pipeline.workflow.errors import Postponed, StepFailed
from pipeline.workflow.ports import Answered, Asking
from pipeline.workflow.prompt_sinks import BodySink, Sink, TextSink, answered, usage_of, vectors_of
from workers.base import ChatMessage, EmbeddingRequest, Parameters

T = TypeVar("T", bound=Sink)

_RETRYABLE = (BackendFailed, RetrievalFailed, StageFailed, DeadlineExceeded, ShardLost)
_NEVER = frozenset({Reason.BACKEND_AUTH})  # our credentials are wrong: so they will be next time
_POSTPONED_SECONDS = 1.0  # where the error does not say
_SOON = 1.0  # to ask again costs nothing here; what clients are told spreads thousands of them over the time of all


class IngressPrompts:
    """`pipeline.workflow.ports.Prompts` over a shard's `Ingress`."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    async def ask(self, asking: Asking, on_text: Callable[[str], None] | None = None) -> Answered:
        prompt = Prompt(
            asking.route,
            asking.messages,
            _question(asking.messages),
            asking.parameters,
            stream=on_text is not None,
            session_id=asking.session_id,
            timeout=asking.timeout,
            body=_json_body(asking) if asking.json_answer else b"",
        )
        ticket, sink = await self._through(asking, prompt, TextSink(on_text))
        return answered(ticket, sink)

    async def embed(self, asking: Asking, texts: Sequence[str]) -> tuple[list[list[float]], str, dict[str, int] | None]:
        request = EmbeddingRequest(asking.request_id, asking.route, tuple(texts))
        prompt = Prompt(
            asking.route,
            (),
            "",
            Parameters(),
            stream=False,
            session_id=asking.session_id,
            timeout=asking.timeout,
            embedding=request,
        )
        ticket, sink = await self._through(asking, prompt, BodySink())
        vectors, model = vectors_of(sink.body, len(texts))
        return vectors, model or ticket.worker, usage_of(sink.usage)

    async def _through(self, asking: Asking, prompt: Prompt, sink: T) -> tuple[Ticket, T]:
        """Whatever happens, the ticket ends."""
        ingress = self._ingress
        ticket = ingress.open(asking.request_id)
        try:
            ticket.caller = caller = ingress.access.named(asking.caller)
            ticket.priority = _priority(asking, caller)
            lacking = ingress.lacking(ticket, prompt)
            if lacking is not None:
                await lacking
            ingress.submit(ticket, prompt, sink)
            error = await sink.over
        except HeadgateError as refusal:
            ingress.reject(ticket, refusal)
            error = refusal
        except BaseException:
            ingress.cancel(ticket, Reason.CLIENT_GONE)
            raise
        finally:
            ticket.sink = None
        if error is not None:
            raise told(error) from None
        return ticket, sink


def told(error: HeadgateError) -> StepFailed | Postponed:
    """What ended a prompt, in the engine's terms. One that was shed, or whose caller's limit is reached, or that the
    process ended because it stops, has only to come back."""
    if isinstance(error, Overloaded | RateLimited) or (
        isinstance(error, Cancelled) and error.reason == Reason.SHUTDOWN
    ):
        seconds = _POSTPONED_SECONDS if error.retry_after is None else error.retry_after
        busy = isinstance(error, Overloaded) and error.reason != Reason.CIRCUIT_OPEN
        return Postponed(error.reason, min(seconds, _SOON) if busy else seconds)
    details: dict[str, Any] = {"status": error.status, "reason": str(error.reason)}
    if error.param is not None:
        details["param"] = error.param
    return StepFailed(
        "unauthorized" if isinstance(error, Unauthorized) else error.code,
        error.message,
        retryable=isinstance(error, _RETRYABLE) and error.reason not in _NEVER,
        retry_after=error.retry_after,
        details=details,
    )


def _priority(asking: Asking, caller: Caller) -> Priority:
    """The run's class, which its caller may have lost since; once the run is under way, the one above."""
    own = max(asking.priority, caller.priority)
    return Priority(max(Priority.CRITICAL, own - 1) if asking.underway else own)


def _question(messages: Sequence[ChatMessage]) -> str:
    """As for clients: the newest user message's text; without one, the last message's."""
    return next((message.text for message in reversed(messages) if message.role == "user"), messages[-1].text)


def _json_body(asking: Asking) -> bytes:
    """The request in the OpenAI chat dialect: what backends are told that can hold a model to JSON."""
    parameters = asking.parameters
    fields: dict[str, Any] = {
        "model": asking.route,
        "messages": [{"role": message.role, "content": message.text} for message in asking.messages],
        "response_format": {"type": "json_object"},
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "stop": parameters.stop or None,
        "seed": parameters.seed,
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})
