"""Whole answers in the dialect of OpenAI's older completions. A backend's own object is passed on as it is wherever
possible."""

import time
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Raw

from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge.citations import citations
from pipeline.edge.completions_types import TextChoice, TextCompletion
from pipeline.edge.openai_answers import counts, decode_fields, encode
from workers.base import Usage

_REASONS = {"length": "length", "content_filter": "content_filter"}  # a text cannot end with a tool's call


class Identity(msgspec.Struct, frozen=True):
    """What all parts of one answer share. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


_decode_identity = msgspec.json.Decoder(Identity).decode


class TextAnswering(msgspec.Struct, frozen=True):
    """Which answer this is. With `rename` it names `model`, what the client asked for, whatever the backend calls its
    model."""

    request_id: str
    model: str
    rename: bool
    cites: bool = False  # the route has a collection: the answer has `citations`, if only an empty list

    def identity(self, own: bytes, *, native: bool) -> Identity:
        """The backend's, as its object or chunk `own` tells: also of a chat, but for the id."""
        made = Identity(f"cmpl-{self.request_id}", int(time.time()), self.model)
        try:
            theirs = _decode_identity(own)
        except msgspec.MsgspecError:  # there is none, or it leaves them out
            return made
        model = self.model if self.rename else theirs.model
        return Identity(theirs.id if native else made.id, theirs.created, model)

    def compose(self, message: PostOutput, answers: Sequence[Answer], usage: Usage | None) -> bytes:
        """The `text_completion` object."""
        body, changed, native = b"", False, False
        for answer in answers:
            body = answer.body or body
            changed = changed or answer.changed
            native = native or any(delta.native for delta in answer.deltas)
        if not body or changed or not native:
            return encode(self._completion(message, answers, usage, body, native=native))
        return self.renamed(body) if self.rename else body

    def renamed(self, own: bytes) -> bytes:
        fields = decode_fields(own)
        fields["model"] = Raw(encode(self.model))
        return encode(fields)

    def _completion(
        self, message: PostOutput, answers: Sequence[Answer], usage: Usage | None, body: bytes, *, native: bool
    ) -> TextCompletion:
        identity = self.identity(body, native=native)
        passages = message.before.before.passages
        return TextCompletion(
            id=identity.id,
            created=identity.created,
            model=identity.model,
            choices=_choices(answers),
            usage=UNSET if usage is None else counts(usage),
            citations=citations(passages) if self.cites else UNSET,
        )


def text_reason(reason: str | None) -> str | None:
    """A chat's finish_reason, as completions have it."""
    return None if reason is None else _REASONS.get(reason, "stop")


def _choices(answers: Sequence[Answer]) -> list[TextChoice]:
    parts: dict[int, list[str]] = {}
    finished: dict[int, str | None] = {}
    for answer in answers:
        for delta in answer.deltas:
            parts.setdefault(delta.index, []).append(delta.text)
            finished[delta.index] = delta.finish_reason or finished.get(delta.index)
    return [
        TextChoice("".join(texts), index, None, text_reason(finished[index]) or "stop")
        for index, texts in sorted(parts.items())
    ]
