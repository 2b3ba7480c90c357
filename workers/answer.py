"""Answers of workers that other people wrote: checked, put right where that is possible, made one where they are not
streamed."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from workers.base import Delta, DeltaBatch, GenerationRequest, Usage
from workers.canonical import FINISH_REASONS, Choice, FinishReason, Identity, completion
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_dialect import decode_completion
from workers.openai_fields import UNDECODABLE, finish_reason_of, usage_in

_MAX_CHOICES = 1024
_MAX_WHOLE = 64 << 20  # bytes of an answer that is not streamed
_PLAIN = frozenset({"role", "content"})


class _Choice(msgspec.Struct):
    delta: dict[str, Any]
    index: int = 0
    finish_reason: str | None = None
    logprobs: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]
    id: str = ""
    created: int = 0
    model: str = ""
    usage: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Answer:
    """One answer on its way from such a worker. Batches go through `take`, which gives what may go on; `end` gives the
    rest.

    A delta whose `raw` is set counts as what the chunk says, whatever its other fields say. Finish reasons that OpenAI
    does not have become `stop`. What cannot be put right raises `WorkerError` of kind `protocol`.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self._body = b""
        self._whole = None if request.stream else _Whole(request)

    def take(self, batch: DeltaBatch) -> DeltaBatch | None:
        """What of `batch` can go on now; None when that is nothing."""
        if batch.usage is not None:
            self._usage = _counted(batch.usage)
        if batch.body:
            self._take_body(batch.body)
            return None
        deltas = self._checked(batch.deltas)
        if self._whole is not None:
            self._whole.add(deltas)
            return None
        return DeltaBatch(deltas) if deltas else None

    def open_choices(self) -> list[int]:
        """The choices that have no finish_reason yet, as far as it is known which there are."""
        return [] if self._body else sorted((self._seen or {0}) - self._finished)

    def missing(self) -> bool:
        """Whether there are fewer finished choices than were asked for, or one that is open."""
        return not self._body and (bool(self.open_choices()) or len(self._finished) < self._request.parameters.n)

    def end(self) -> DeltaBatch | None:
        """What is left to say: `stop` for open choices, the usage, the whole of an answer that was not streamed."""
        if self._body:
            batch = decode_completion(self._body)
            return batch if self._usage is None else msgspec.structs.replace(batch, usage=self._usage)
        last = self._checked([Delta(index=index, finish_reason="stop") for index in self.open_choices()])
        if self._whole is not None:
            self._whole.add(last)
            return self._whole.batch(self._usage)
        return DeltaBatch(last, self._usage) if last or self._usage is not None else None

    def _take_body(self, body: bytes) -> None:
        if self._whole is None:
            raise broken("it has a body, though it is streamed")
        if body.__class__ is not bytes or self._body:
            raise broken("its body is no bytes, or there are two of them")
        self._body = body

    def _checked(self, deltas: Sequence[Delta]) -> tuple[Delta, ...]:
        checked: list[Delta] = []
        for delta in deltas:
            if delta.__class__ is not Delta:
                raise broken(f"there is a {type(delta).__name__} among its deltas")
            if delta.raw or delta.native:
                checked += [self._counted(one) for one in self._of_chunk(delta)]
            else:
                checked.append(self._counted(delta))
        return tuple(checked)

    def _counted(self, delta: Delta) -> Delta:
        """The same, with at most one finish_reason for each choice; hot, so that what is well is not made anew."""
        text, index, reason = delta.text, delta.index, delta.finish_reason
        if text.__class__ is not str:
            raise broken(f"the text of a delta is a {type(text).__name__}")
        if index not in self._seen:
            if index.__class__ is not int or not 0 <= index < _MAX_CHOICES:
                raise broken(f"a choice has the index {index!r:.40}")
            self._seen.add(index)
        if not text.isascii():
            text = _encodable(text)
        if reason is not None:
            reason = self._reason(index, reason)
        if text is delta.text and reason is delta.finish_reason:
            return delta
        return Delta(text, index, reason, delta.raw, delta.extra)

    def _reason(self, index: int, reason: str) -> str | None:
        if reason.__class__ is not str:
            raise broken(f"a finish_reason is a {type(reason).__name__}")
        if index in self._finished:
            return None
        self._finished.add(index)
        return finish_reason_of(reason) if reason else "stop"

    def _of_chunk(self, delta: Delta) -> list[Delta]:
        """A delta for each choice of a chunk; the first carries its bytes, put on one line."""
        raw = delta.raw
        if delta.native:
            raise broken("a delta is marked as native, which nobody asked for")
        try:
            chunk = _decode(raw)
            raw.decode()  # the decoder looks only into the strings that it keeps
        except (TypeError, AttributeError, *UNDECODABLE):
            raise broken("the raw of a delta is no chat.completion.chunk") from None
        if chunk.usage is not None:
            self._usage = usage_in(raw) or self._usage
        if self._whole is not None:
            self._whole.chunk(chunk)
        raw = _put_right(raw, chunk)
        deltas: list[Delta] = []
        for choice in chunk.choices:
            text = choice.delta.get("content")
            extra = len(chunk.choices) > 1 or _more_than_text(choice.delta) or choice.logprobs is not None
            whole = text if isinstance(text, str) else ""
            deltas.append(Delta(whole, choice.index, choice.finish_reason, raw, extra))
            raw = b""
        return deltas


class _Whole:
    """An answer that was not streamed, from its pieces."""

    def __init__(self, request: GenerationRequest) -> None:
        self._identity = Identity(f"chatcmpl-{request.request_id}", int(time.time()), request.model)
        self._named = False
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}
        self._fields: dict[int, dict[str, Any]] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}  # of tools, by choice and by their index there
        self._size = 0

    def add(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._grow(len(delta.text) + len(delta.raw))
            self._texts.setdefault(delta.index, []).append(delta.text)
            if delta.finish_reason is not None:
                self._reasons.setdefault(delta.index, delta.finish_reason)

    def chunk(self, chunk: _Chunk) -> None:
        """What of a chunk is more than text."""
        if not self._named:
            self._named = True
            given = Identity(chunk.id, chunk.created, chunk.model)
            ours = self._identity
            self._identity = Identity(given.id or ours.id, given.created or ours.created, given.model or ours.model)
        for choice in chunk.choices:
            _fold(self._fields.setdefault(choice.index, {}), choice.delta)
            _fold_calls(self._calls.setdefault(choice.index, {}), choice.delta.get("tool_calls") or ())

    def batch(self, usage: Usage | None) -> DeltaBatch:
        deltas = []
        choices = []
        for index in sorted(self._texts):
            text, fields = "".join(self._texts[index]), self._fields.get(index, {})
            calls = self._calls.get(index)
            if calls:
                fields = {**fields, "tool_calls": [calls[position] for position in sorted(calls)]}
            reason = self._reasons[index]
            content = None if calls and not text else text
            known: FinishReason = reason if reason in FINISH_REASONS else "stop"  # type: ignore[assignment]
            choices.append(Choice({"content": content, **fields}, known, index))
            deltas.append(Delta(text, index, reason, extra=bool(fields)))
        return DeltaBatch(tuple(deltas), usage, completion(self._identity, choices, usage))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > _MAX_WHOLE:
            raise broken(f"it is larger than {_MAX_WHOLE} bytes")


def broken(what: str) -> WorkerError:
    """The answer is not what was agreed."""
    return WorkerError(WorkerErrorKind.PROTOCOL, f"the worker's answer is malformed: {what}")


def _fold(fields: dict[str, Any], delta: dict[str, Any]) -> None:
    """As OpenAI's own clients put chunks together: texts are joined, of anything else the last one counts."""
    for name, value in delta.items():
        if name in _PLAIN or name == "tool_calls" or value is None:
            continue
        before = fields.get(name)
        fields[name] = before + value if isinstance(value, str) and isinstance(before, str) else value


def _fold_calls(calls: dict[int, dict[str, Any]], pieces: Any) -> None:
    for piece in pieces if isinstance(pieces, list | tuple) else [None]:
        fields = piece if isinstance(piece, dict) else {}
        function, position = fields.get("function"), fields.get("index", 0)
        if not isinstance(function, dict) or not isinstance(position, int):
            raise broken("a piece of a tool call is not as OpenAI has it")
        call = calls.setdefault(position, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = fields.get("id") or call["id"]
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += str(function.get("arguments") or "")


def _more_than_text(fields: dict[str, Any]) -> bool:
    return any(value for name, value in fields.items() if name not in _PLAIN)


def _put_right(raw: bytes, chunk: _Chunk) -> bytes:
    """On one line, as it goes into an event, and with finish reasons that clients know."""
    if all(choice.finish_reason is None or choice.finish_reason in FINISH_REASONS for choice in chunk.choices):
        return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw
    fields = msgspec.json.decode(raw)
    for choice in fields["choices"]:
        if choice.get("finish_reason") is not None:
            choice["finish_reason"] = finish_reason_of(choice["finish_reason"]) or "stop"
    return msgspec.json.encode(fields)


def _encodable(text: str) -> str:
    """Halves of surrogate pairs, which no encoding has, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass").decode(errors="replace")
    return text


def _counted(usage: Usage) -> Usage:
    """Raises `WorkerError` for counts that are none. What the client gets is made of the counts."""
    if usage.__class__ is not Usage:
        raise broken(f"its usage is a {type(usage).__name__}")
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
    if any(count.__class__ is not int or count < 0 for count in counts):
        raise broken("its usage is not made of counts")
    return Usage(counts[0], counts[1], b"", counts[2], counts[3])
