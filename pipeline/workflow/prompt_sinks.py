"""What becomes of an answer that a step waits for."""

import abc
import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Answered
from workers.base import Usage


class Sink(abc.ABC):
    """Keeps an answer. `over` gives what it ended with, None for its proper end."""

    def __init__(self) -> None:
        self.message: PostOutput | None = None
        self.usage: Usage | None = None
        self.over: asyncio.Future[HeadgateError | None] = asyncio.get_running_loop().create_future()

    def begin(self, message: PostOutput) -> None:
        self.message = message

    @abc.abstractmethod
    def write(self, answer: Answer) -> None: ...

    def finish(self, usage: Usage | None) -> None:
        self.usage = usage
        self._end(None)

    def fail(self, error: HeadgateError) -> None:
        self._end(error)

    def _end(self, error: HeadgateError | None) -> None:
        if not self.over.done():
            self.over.set_result(error)


class TextSink(Sink):
    """Of an answer in words. `on_text` is called with each piece."""

    def __init__(self, on_text: Callable[[str], None] | None) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.finish_reason = "stop"
        self.model = ""
        self._on_text = on_text

    def write(self, answer: Answer) -> None:
        if not self.model:
            self.model = _model(answer.body or (answer.deltas[0].raw if answer.deltas else b""))
        for delta in answer.deltas:
            if delta.finish_reason is not None:
                self.finish_reason = delta.finish_reason
            if delta.text:
                self.texts.append(delta.text)
                if self._on_text is not None:
                    self._on_text(delta.text)


class BodySink(Sink):
    """Of vectors: `body` is OpenAI's list object."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""

    def write(self, answer: Answer) -> None:
        self.body = answer.body or self.body


def answered(ticket: Ticket, sink: TextSink) -> Answered:
    metadata: dict[str, Any] = {"worker": ticket.worker}
    if ticket.retries:
        metadata["retries"] = ticket.retries
    if ticket.reduced:
        metadata["reduced"] = list(ticket.reduced)
    if ticket.degraded:
        metadata["degraded"] = True
    return Answered(
        text="".join(sink.texts),
        model=sink.model or ticket.worker,
        finish_reason=sink.finish_reason,
        usage=usage_of(sink.usage),
        passages=[] if sink.message is None else _passages(sink.message),
        metadata=metadata,
    )


def _passages(message: PostOutput) -> list[dict[str, Any]]:
    """As citations, in the order of their numbers in the answer."""
    return [
        {"index": index, **msgspec.structs.asdict(passage)}
        for index, passage in enumerate(message.before.before.passages, 1)
    ]


def usage_of(usage: Usage | None) -> dict[str, int] | None:
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Named(msgspec.Struct):
    model: Any = None


class _Embedding(msgspec.Struct):
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    model: Any = None


_decode_named = msgspec.json.Decoder(_Named).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def _model(raw: bytes) -> str:
    """What the backend calls its model, where it sent an object of OpenAI's dialect."""
    if not raw.startswith(b"{"):
        return ""
    try:
        model = _decode_named(raw).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""


def vectors_of(body: bytes, texts: int) -> tuple[list[list[float]], str]:
    """Of OpenAI's list object, in its order, which is the inputs'."""
    try:
        answer = _decode_embeddings(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StepFailed("backend_error", f"The backend's vectors cannot be read: {error}", retryable=True) from error
    if len(answer.data) != texts:
        message = f"The backend gave {len(answer.data)} vectors for {texts} texts"
        raise StepFailed("backend_error", message, retryable=True)
    return [one.embedding for one in answer.data], answer.model if isinstance(answer.model, str) else ""
