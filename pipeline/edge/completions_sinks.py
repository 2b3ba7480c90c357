"""What an answer must be for a completion request that chat has no words for."""

from typing import Any

from pipeline.core.errors import BackendRefused
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.core.ticket import STATIC
from pipeline.edge.sinks import JsonSink


class OnlyNative:
    """Whether an answer may be one that was made by chat. `field` of the request needs a backend with the same
    endpoint; None: nothing does."""

    def __init__(self, model: str, field: str | None) -> None:
        self._model = model
        self._field = field

    def begin(self, message: PostOutput) -> None:
        """A route's own words are nobody's completion, and better than none."""
        if STATIC in message.request.ticket.reduced:
            self._field = None

    def check(self, answer: Answer) -> None:
        """To be called with each part of an answer. Raises `BackendRefused` where the first is no native one."""
        if self._field is None or not answer.deltas:
            return
        if not answer.deltas[0].native:
            raise BackendRefused(
                f"The model {self._model!r} has no completions of its own, only chat: it cannot serve '{self._field}' "
                "as given.",
                param=self._field,
            )
        self._field = None


class WholeText(JsonSink):
    """As a `JsonSink`, of an answer that may have to be native."""

    def __init__(self, *arguments: Any) -> None:
        *others, self._required = arguments
        super().__init__(*others)

    def begin(self, message: PostOutput) -> None:
        self._required.begin(message)
        super().begin(message)

    def write(self, answer: Answer) -> None:
        self._required.check(answer)
        super().write(answer)
