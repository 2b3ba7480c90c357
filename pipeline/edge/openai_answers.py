"""Whole answers in OpenAI's dialect. A backend's own object is passed on as it is wherever possible."""

import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET, Raw

from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge.citations import citations
from pipeline.edge.openai_types import AssistantMessage, ChatCompletion, CompletionChoice, CompletionUsage
from workers.base import Passage, Usage

encode = msgspec.json.encode

Fields = dict[str, Raw]
Texts = Mapping[int, tuple[str, str | None]]  # a choice's index → its text and finish_reason

decode_fields = msgspec.json.Decoder(Fields).decode
_decode_choices = msgspec.json.Decoder(list[Fields]).decode
_NULL = b"null"


class Answering(msgspec.Struct, frozen=True):
    """Which answer this is. With `rename` it names `model`, what the client asked for, whatever the backend calls its
    model."""

    request_id: str
    model: str
    rename: bool
    cites: bool = False  # the route has a collection: the answer has `citations`, if only an empty list

    @property
    def id(self) -> str:
        return f"chatcmpl-{self.request_id}"

    def compose(self, message: PostOutput, answers: Sequence[Answer], usage: Usage | None) -> bytes:
        """The `chat.completion` object."""
        passages = message.before.before.passages
        body, changed = b"", False
        for answer in answers:
            body = answer.body or body
            changed = answer.changed or changed
        if not body:
            return encode(self._completion(answers, usage, passages))
        if not (changed or self.rename or self.cites):
            return body
        fields = decode_fields(body)
        if self.rename:
            fields["model"] = Raw(encode(self.model))
        if changed:
            fields["choices"] = patched(fields["choices"], _texts(answers), "message")
        if self.cites:
            fields["citations"] = Raw(encode(citations(passages)))
        return encode(fields)

    def _completion(
        self, answers: Sequence[Answer], usage: Usage | None, passages: Sequence[Passage]
    ) -> ChatCompletion:
        choices = [
            CompletionChoice(index, AssistantMessage(content=text), finish_reason or "stop")
            for index, (text, finish_reason) in sorted(_texts(answers).items())
        ]
        return ChatCompletion(
            id=self.id,
            created=int(time.time()),
            model=self.model,
            choices=choices,
            usage=UNSET if usage is None else counts(usage),
            citations=citations(passages) if self.cites else UNSET,
        )


def token_counts(usage: Usage) -> bytes:
    """The backend's own usage object, or one like it."""
    return usage.raw or encode(counts(usage))


def counts(usage: Usage) -> CompletionUsage:
    """The usage object for a backend that has none of OpenAI's."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return CompletionUsage(
        prompt,
        completion,
        prompt + completion,
        {"cached_tokens": usage.cached_tokens} if usage.cached_tokens else UNSET,
        {"reasoning_tokens": usage.reasoning_tokens} if usage.reasoning_tokens else UNSET,
    )


def patched(choices: Raw, texts: Texts, part: str) -> Raw:
    """A backend's choices with other texts in their `part` (`message` or `delta`), and with their finish_reasons.

    What could still tell the text that was taken out goes too: log probabilities, and choices that are not in `texts`.
    """
    kept = []
    for choice in _decode_choices(choices):
        index = msgspec.json.decode(choice.get("index", b"0"), type=int)
        if index not in texts:
            continue
        text, finish_reason = texts[index]
        own = choice.get(part, _NULL)
        fields = {} if bytes(own) == _NULL else decode_fields(own)
        if text or bytes(fields.get("content", _NULL)) != _NULL:
            fields["content"] = Raw(encode(text))
        choice[part] = Raw(encode(fields))
        choice["finish_reason"] = Raw(encode(finish_reason))
        if "logprobs" in choice:
            choice["logprobs"] = Raw(_NULL)
        kept.append(choice)
    return Raw(encode(kept))


def _texts(answers: Sequence[Answer]) -> Texts:
    if len(answers) == 1 and len(answers[0].deltas) == 1:
        (delta,) = answers[0].deltas
        return {delta.index: (delta.text, delta.finish_reason)}
    parts: dict[int, list[str]] = {}
    finished: dict[int, str | None] = {}
    for answer in answers:
        for delta in answer.deltas:
            parts.setdefault(delta.index, []).append(delta.text)
            finished[delta.index] = delta.finish_reason or finished.get(delta.index)
    return {index: ("".join(texts), finished[index]) for index, texts in parts.items()}
