"""`vector_search` and `vector_upsert`: collections, read and written."""

import hashlib
from typing import Any

import msgspec

from pipeline.workflow.definition import VectorSearchStep, VectorUpsertStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result, StepContext
from pipeline.workflow.steps import values

MAX_FOUND = 1000
MAX_DOCUMENTS = 10_000


class Document(msgspec.Struct, frozen=True):
    source: str
    title: str
    text: str


async def vector_search(step: VectorSearchStep, context: StepContext) -> Result:  # noqa: ARG001 - all by the context
    """See `VectorSearchStep`."""
    collection, query = values.name(context, "collection"), values.text(context, "query")
    limit = values.integer(context, "limit", 1, MAX_FOUND)
    least = values.number(context, "min_score", -1e9, 1e9)
    if limit is None:
        raise values.invalid("limit", f"an integer from 1 to {MAX_FOUND}", None)
    passages = await context.services.knowledge.search(collection, query, limit)
    found = [
        {"text": one.text, "source": one.source, "title": one.title, "score": one.score}
        for one in passages
        if least is None or one.score >= least
    ]
    return Result(found, {"metadata": {"collection": collection, "found": len(found)}})


async def vector_upsert(step: VectorUpsertStep, context: StepContext) -> Result:  # noqa: ARG001 - as above
    """See `VectorUpsertStep`. Made again after it broke off it does the same: each document is replaced."""
    collection = values.name(context, "collection")
    documents = _documents(context.value("documents"))
    chunks = 0
    for document in documents:
        chunks += await context.services.knowledge.upsert(collection, document.source, document.title, document.text)
    value = {"documents": len(documents), "chunks": chunks}
    return Result(value, {"metadata": {"collection": collection, "sources": [one.source for one in documents][:100]}})


def _documents(given: Any) -> list[Document]:
    """Each once, all checked before any is stored."""
    if isinstance(given, str | dict):
        return [_document("documents", given)]
    if not isinstance(given, list):
        raise values.invalid("documents", "a text, an object or a list of those", given)
    if len(given) > MAX_DOCUMENTS:
        raise StepFailed("invalid_input", f"documents: at most {MAX_DOCUMENTS}, got {len(given)}")
    known: dict[str, Document] = {}
    for position, one in enumerate(given):
        document = _document(f"documents[{position}]", one)
        if known.setdefault(document.source, document) != document:
            message = f"documents[{position}]: another one before it has the source {values.shown(document.source)} too"
            raise StepFailed("invalid_input", message, details={"field": f"documents[{position}].source"})
    return list(known.values())


def _document(field: str, given: Any) -> Document:
    """Other fields than these three, such as the score of what was found, are left out."""
    fields = {"text": given} if isinstance(given, str) else given
    if not isinstance(fields, dict):
        raise values.invalid(field, "a text or an object", given)
    text, source, title = fields.get("text"), fields.get("source"), fields.get("title")
    if not isinstance(text, str):
        raise values.invalid(f"{field}.text", "a text", text)
    if source is not None and (not isinstance(source, str) or not source.strip()):
        raise values.invalid(f"{field}.source", "a name", source)
    if title is not None and not isinstance(title, str):
        raise values.invalid(f"{field}.title", "a text", title)
    return Document(source or made_source(text), title or "", text)


def made_source(text: str) -> str:
    """The source of a document that has none: the same for the same text."""
    return f"text:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}"
