"""`embed`: vectors of a text or of several, by a route whose worker embeds or by a collection's embedder."""

from pipeline.workflow.definition import EmbedStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Asking, Result, StepContext
from pipeline.workflow.steps import values
from pipeline.workflow.steps.llm import request_id
from workers.base import Parameters

MAX_TEXTS = 10_000
_AT_ONCE = 256  # texts in one prompt

Usage = dict[str, int]


async def embed(step: EmbedStep, context: StepContext) -> Result:
    """See `EmbedStep`. By a collection's embedder the text counts as a search's, of which only the first 8,192
    characters are looked at."""
    given = context.value("input")
    texts = _texts(given)
    model: str | None
    usage: Usage | None
    if step.collection is not None:
        collection = values.name(context, "collection")
        vectors = [await context.services.knowledge.embed(collection, text) for text in texts]
        model, usage, metadata = None, None, {"collection": collection}
    else:
        route = values.name(context, "route")
        vectors, model, usage = await _by_route(context, route, texts)
        metadata = {"route": route}
    value = vectors[0] if isinstance(given, str) else vectors
    return Result(value, {"vectors": value, "model": model, "usage": usage, "metadata": metadata})


async def _by_route(
    context: StepContext, route: str, texts: list[str]
) -> tuple[list[list[float]], str | None, Usage | None]:
    vectors: list[list[float]] = []
    model: str | None = None
    usage: Usage | None = None
    for number, at in enumerate(range(0, len(texts), _AT_ONCE), 1):
        remaining = context.remaining
        asking = Asking(
            request_id=request_id(context, number),
            session_id=context.run_id,
            route=route,
            messages=(),
            parameters=Parameters(),
            caller=context.caller,
            priority=context.priority,
            underway=context.underway or number > 1,
            timeout=None if remaining is None else max(remaining, 0.001),
        )
        made, model, used = await context.services.prompts.embed(asking, texts[at : at + _AT_ONCE])
        vectors += made
        usage = _added(usage, used)
    return vectors, model, usage


def _texts(given: object) -> list[str]:
    if isinstance(given, str):
        texts: list[object] = [given]
    elif isinstance(given, list):
        texts = given
    else:
        raise values.invalid("input", "a text or a list of texts", given)
    if len(texts) > MAX_TEXTS:
        raise StepFailed("invalid_input", f"input: at most {MAX_TEXTS} texts, got {len(texts)}")
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            field = "input" if isinstance(given, str) else f"input[{position}]"
            raise values.invalid(field, "a text that is not empty", text)
    return [text for text in texts if isinstance(text, str)]


def _added(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return other if one is None else one
    return {name: one.get(name, 0) + count for name, count in other.items()}
