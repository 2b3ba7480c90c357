"""What the workers share that make their answers in this process: their tokens, and the parameters they honour."""

import re

from workers.base import GenerationRequest, Parameters
from workers.errors import WorkerError, WorkerErrorKind

_TOKEN = re.compile(r"\S+\s*|\s+")


def newest_user_text(request: GenerationRequest) -> str:
    """The text of the newest user message; empty when there is none."""
    for message in reversed(request.messages):
        if message.role == "user":
            return message.text
    return ""


def tokens_of(text: str) -> list[str]:
    """Words, each with the whitespace after it; joined they are `text` again. An empty text is one empty token."""
    return _TOKEN.findall(text) or [""]


def limited(tokens: list[str], parameters: Parameters) -> tuple[list[str], str]:
    """What is left of an answer under `max_tokens` and `stop`, and its finish_reason.

    As a model would have it: generation ends before the first stop sequence (`stop`), unless `max_tokens` was used up
    sooner (`length`). Never empty.
    """
    finish_reason = "stop"
    limit = parameters.max_tokens
    if limit is not None and len(tokens) > limit:
        tokens, finish_reason = tokens[:limit], "length"
    if parameters.stop:
        text = "".join(tokens)
        found = [at for at in (text.find(stop) for stop in parameters.stop if stop) if at >= 0]
        if found:
            tokens, finish_reason = tokens_of(text[: min(found)]), "stop"
    return tokens or [""], finish_reason


def refuse_several(request: GenerationRequest, worker: str) -> None:
    """Raises `WorkerError` when more than one choice is asked for: these workers would only repeat themselves."""
    if request.parameters.n > 1:
        raise WorkerError(
            WorkerErrorKind.BAD_REQUEST,
            f"worker {worker!r} gives one choice an answer, but n is {request.parameters.n}",
        )
