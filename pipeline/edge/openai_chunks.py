"""Streamed answers in OpenAI's dialect. A backend's own chunks are passed on as they are wherever possible."""

import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Raw

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge import sse
from pipeline.edge.citations import citations
from pipeline.edge.errors import error_json
from pipeline.edge.openai_answers import Answering, decode_fields, encode, patched, token_counts
from workers.base import Delta, Usage

_DONE = b"data: [DONE]\n\n"
_TEXT_END = b'},"finish_reason":null}]}\n\n'


class _Identity(msgspec.Struct, frozen=True):
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str


_decode_identity = msgspec.json.Decoder(_Identity).decode


class ChunkEncoder:
    """One answer as `chat.completion.chunk` events; with `usage`, the tokens are told at the end.

    Chunks of our own are put together around their text: everything else in them is the same for a whole answer. They
    take id, time and model from the backend's first chunk where it sends its own.
    """

    def __init__(self, answering: Answering, *, usage: bool) -> None:
        self._answering = answering
        self._usage = usage
        self._head = b""  # of every chunk, up to its choices
        self._begun: dict[int, bytes] = {}  # choices that have had a chunk → what stands before their texts
        self._citations = b""
        self._verbatim = not (answering.rename or answering.cites)

    def begin(self, message: PostOutput) -> None:
        passages = message.before.before.passages
        if self._answering.cites:
            self._citations = b',"citations":' + encode(citations(passages))

    def deltas(self, answer: Answer) -> bytes:
        begun = self._begun
        if answer.frames and self._unchanged(answer.deltas):
            return answer.frames
        if not self._head:
            self._identify(answer)
        frames: list[bytes] = []
        told = False  # the backend's chunk before told what follows without one: it had several choices
        for position, delta in enumerate(answer.deltas):
            if delta.raw:
                if delta.extra or not answer.changed:
                    frames += self._foreign(answer, position)
                    told = delta.extra
                    continue
            elif delta.extra and told:
                continue
            told = False
            index = delta.index
            if index not in begun:
                frames.append(self._lead(index))
            if delta.text:
                frames.append(begun[index] + encode(delta.text) + _TEXT_END)
            if delta.finish_reason is not None:
                frames.append(self._end(delta))
        return b"".join(frames)

    def _unchanged(self, deltas: Sequence[Delta]) -> bool:
        """Whether there is nothing to add to what the backend sent: all of these choices have begun."""
        if not self._verbatim:
            return False
        for delta in deltas:  # noqa: SIM110 - once for each chunk, most often of one
            if delta.index not in self._begun:
                return False
        return True

    def finish(self, usage: Usage | None) -> bytes:
        if not self._usage or usage is None:
            return _DONE
        return self._head + b'"choices":[],"usage":' + token_counts(usage) + b"}\n\n" + _DONE

    def error(self, error: HeadgateError) -> bytes:
        return sse.data(error_json(error))

    def _identify(self, answer: Answer) -> None:
        own = self._answering
        identity = _Identity(own.id, int(time.time()), own.model)
        raw = next((delta.raw for delta in answer.deltas if delta.raw), b"")
        if raw:
            with suppress(msgspec.MsgspecError):  # a backend that leaves them out
                identity = _decode_identity(raw)
        name = own.model if own.rename else identity.model
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            encode(identity.id),
            identity.created,
            encode(name),
        )

    def _end(self, delta: Delta) -> bytes:
        """The last chunk of a choice."""
        return b'%b"choices":[{"index":%d,"delta":{},"finish_reason":%b}]}\n\n' % (
            self._head,
            delta.index,
            encode(delta.finish_reason),
        )

    def _lead(self, index: int) -> bytes:
        """The first chunk of a choice. The citations come with the first of all."""
        self._begin_choice(index)
        cited, self._citations = self._citations, b""
        return b'%b"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"finish_reason":null}]%b}\n\n' % (
            self._head,
            index,
            cited,
        )

    def _begin_choice(self, index: int) -> None:
        self._begun[index] = b'%b"choices":[{"index":%d,"delta":{"content":' % (self._head, index)

    def _foreign(self, answer: Answer, position: int) -> Sequence[bytes]:
        """The backend's chunk, after one of our own where there is something to cite."""
        delta = answer.deltas[position]
        raw = delta.raw
        if answer.changed:
            raw = _with_texts(raw, answer.deltas[position:])
        if self._answering.rename:
            fields = decode_fields(raw)
            fields["model"] = Raw(encode(self._answering.model))
            raw = encode(fields)
        if self._citations:
            return self._lead(delta.index), sse.data(raw)
        if delta.index not in self._begun:
            self._begin_choice(delta.index)
        return (sse.data(raw),)


def _with_texts(raw: bytes, deltas: Sequence[Delta]) -> bytes:
    """A backend's chunk with the texts that the filters left: of its first delta, and of those that follow without a
    chunk of their own."""
    first, *others = deltas
    texts = {first.index: (first.text, first.finish_reason)}
    for delta in others:
        if delta.raw or not delta.extra:
            break
        texts[delta.index] = (delta.text, delta.finish_reason)
    fields = decode_fields(raw)
    if "choices" in fields and bytes(fields["choices"]) != b"null":
        fields["choices"] = patched(fields["choices"], texts, "delta")
    return encode(fields)
