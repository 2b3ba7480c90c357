"""What a client gets, as bytes that cost little to make: one token is one word of a sentence without an end."""

import time

import msgspec

_WORDS = tuple(f"{word} " for word in "each of these words is one token of an answer that nobody thought about".split())
DONE = b"data: [DONE]\n\n"


def text(tokens: int) -> str:
    rounds, rest = divmod(tokens, len(_WORDS))
    return "".join(_WORDS) * rounds + "".join(_WORDS[:rest])


class Answer:
    """The answer to one request. `finish` is `stop` or `length`."""

    def __init__(self, identity: str, model: str, finish: str, prompt_words: int, tokens: int) -> None:
        self._id = f"chatcmpl-{identity}"
        self._model = model
        self._created = int(time.time())
        self._finish = finish
        self._words = prompt_words
        self._tokens = tokens

    def whole(self) -> bytes:
        message = {"role": "assistant", "content": text(self._tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        return msgspec.json.encode(self._object("chat.completion", [choice]) | {"usage": self._usage()})

    def frames(self) -> "Frames":
        empty = self._chunk({"content": "\0"})
        before, _, after = empty.rpartition(b"\\u0000")
        return Frames(self._chunk({"role": "assistant", "content": ""}), before, after)

    def end(self, *, usage: bool) -> bytes:
        """What comes after the last token of a stream."""
        last = self._chunk({}, self._finish)
        return last + (self._usage_frame() if usage else b"") + DONE

    def _usage_frame(self) -> bytes:
        return _frame(self._object("chat.completion.chunk", []) | {"usage": self._usage()})

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _frame(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _usage(self) -> dict[str, int]:
        total = self._words + self._tokens
        return {"prompt_tokens": self._words, "completion_tokens": self._tokens, "total_tokens": total}


class Frames:
    """The SSE frames of a stream's tokens; all that is the same in each is made once."""

    def __init__(self, role: bytes, before: bytes, after: bytes) -> None:
        self._role = role
        self._frames = [before + word.encode() + after for word in _WORDS]

    def joined(self, begin: int, end: int) -> bytes:
        """Those of the tokens from `begin` up to, without, `end`; the role comes before the first."""
        frames, size = self._frames, len(self._frames)
        content = b"".join([frames[position % size] for position in range(begin, end)])
        return content if begin else self._role + content


def _frame(data: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
