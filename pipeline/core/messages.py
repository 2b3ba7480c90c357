"""What travels from stage to stage: frozen messages, each holding the one before it.

`PromptRequest` → `RagOutput` → `AssembleOutput` → `InferenceOutput` → `PostOutput`. Every message also names its
request, so that a stage finds it in one step. Times are seconds on the clock that the flow was given (monotonic).
"""

from typing import Any

import msgspec

from pipeline.core.deltas import DeltaChannel
from pipeline.core.errors import ContextLength
from pipeline.core.ticket import Ticket
from workers.base import ChatMessage, EmbeddingRequest, NativeDialect, Parameters, Passage


class PromptRequest(msgspec.Struct, frozen=True, eq=False):
    """One prompt that passed the door.

    `question` is the text of the newest user message. `deadline` is a time on the flow's clock; `gap_limit` bounds
    the wait for the first delta and between deltas, in seconds, where the client set one. `body`, `native` and
    `native_dialect`: see `GenerationRequest`. `wait_budget` is its route's, in seconds, None for the usual one. Under
    load a request may be given less: `most_passages` where that is fewer than its route retrieves, and `shortened` says
    that `parameters.max_tokens` is lower than what the client asked for in `body`. `course` says what the stages do
    with it (see `pipeline.stages.course`). Where there is an `embedding`, that is what is asked for; then there are no
    messages.
    """

    ticket: Ticket
    request_id: str
    session_id: str | None
    route: str
    messages: tuple[ChatMessage, ...]
    question: str
    parameters: Parameters
    stream: bool
    deadline: float
    gap_limit: float | None = None
    body: bytes = b""
    wait_budget: float | None = None
    most_passages: int | None = None
    shortened: bool = False
    course: Any = None  # Course; the type lives with the stages, which may import this room but not the reverse
    native: bytes = b""
    native_dialect: NativeDialect | None = None
    embedding: EmbeddingRequest | None = None
    native_only: str | None = None  # the field for which `native` is needed

    @property
    def request(self) -> "PromptRequest":
        return self


class RagOutput(msgspec.Struct, frozen=True, eq=False):
    """`passages` are sorted by score, best first; `degraded` says that retrieval failed and the route goes on
    without."""

    request: PromptRequest
    passages: tuple[Passage, ...] = ()
    degraded: bool = False


class Cut(msgspec.Struct, frozen=True):
    """What did not fit the model's token budget: counts of passages and of older turns left out."""

    passages: int = 0
    turns: int = 0

    def __bool__(self) -> bool:
        return bool(self.passages or self.turns)


class AssembleOutput(msgspec.Struct, frozen=True, eq=False):
    """The prompt as the model gets it. `passages` are those that stayed, in the order of their citation numbers.

    `rewritten` is false when `messages` are exactly the client's. `prompt_tokens` is how long we take it to be;
    `counted` is the same before it was scaled to the model's tokens, 0 where nothing is to be learnt from it. `unfit`
    is why there is no prompt for this worker, who was to stand in for another one.
    """

    request: PromptRequest
    before: RagOutput
    messages: tuple[ChatMessage, ...]
    passages: tuple[Passage, ...]
    cut: Cut
    rewritten: bool
    prompt_tokens: int
    counted: int = 0
    unfit: ContextLength | None = None


class InferenceOutput(msgspec.Struct, frozen=True, eq=False):
    """Handed on at the first delta; what follows travels in `channel`."""

    request: PromptRequest
    before: AssembleOutput
    channel: DeltaChannel


class PostOutput(msgspec.Struct, frozen=True, eq=False):
    """`filters` is the request's own filter chain (see `pipeline.stages.post`), None where the route has no filters."""

    request: PromptRequest
    before: InferenceOutput
    filters: Any  # FilterChain | None; the type lives with the stage, which may import this room but not the reverse
