"""Content blocks of Anthropic's Messages as fields of OpenAI's messages and chunks. No I/O.

Text is `content`, a `tool_use` a member of `tool_calls`, thinking `reasoning_content`. Beside that goes
`thinking_blocks`, the thoughts as the backend gave them with their signatures, which it wants to see again in the next
turn. Blocks of tools that the provider ran by itself are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers.canonical import tool_call
from workers.errors import WorkerError, WorkerErrorKind

MAX_THOUGHT = 16 << 20  # characters of one thought, which is kept until its signature is there

Fields = dict[str, Any]


class Block:
    """One block of a stream: what a chunk has of its beginning, its increments and its end; mostly nothing. This one is
    of a type that is left out."""

    is_text = False
    is_call = False

    def begin(self) -> Fields:
        return {}

    def more(self, thinking: str | None, signature: str | None, partial_json: str | None) -> Fields:  # noqa: ARG002 - for those below
        return {}

    def end(self) -> Fields:
        return {}


class TextBlock(Block):
    """Its increments are not asked for here: they are the ordinary case."""

    is_text = True

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._text = _text(start, "text")

    def begin(self) -> Fields:
        return {"content": self._text} if self._text else {}


class CallBlock(Block):
    """A call of a tool. Some servers have its whole input in the beginning."""

    is_call = True

    def __init__(self, start: Mapping[str, Any], position: int) -> None:
        self._position = position
        self._id = _text(start, "id")
        self._name = _text(start, "name")
        self._input = start.get("input")
        self._said = False

    def begin(self) -> Fields:
        return {"tool_calls": [tool_call(self._position, call_id=self._id, name=self._name)]}

    def more(self, thinking: str | None, signature: str | None, partial_json: str | None) -> Fields:  # noqa: ARG002 - see above
        return self._arguments(partial_json) if partial_json else {}

    def end(self) -> Fields:
        return {} if self._said else self._arguments(arguments_of(self._input))

    def _arguments(self, text: str) -> Fields:
        self._said = True
        return {"tool_calls": [tool_call(self._position, arguments=text)]}


class ThoughtBlock(Block):
    """Thinking: told while it comes, and once more as a whole with its signature."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._begun = _text(start, "thinking")
        self._signature = _text(start, "signature")
        self._parts = [self._begun]
        self._size = len(self._begun)

    def begin(self) -> Fields:
        return {"reasoning_content": self._begun} if self._begun else {}

    def more(self, thinking: str | None, signature: str | None, partial_json: str | None) -> Fields:  # noqa: ARG002 - see above
        self._signature += signature or ""
        if not thinking:
            return {}
        self._size += len(thinking)
        if self._size > MAX_THOUGHT:
            raise WorkerError(
                WorkerErrorKind.PROTOCOL, f"the backend sent a thought of more than {MAX_THOUGHT} characters"
            )
        self._parts.append(thinking)
        return {"reasoning_content": thinking}

    def end(self) -> Fields:
        if not self._signature:
            return {}  # nobody will ask for it
        thought = {"type": "thinking", "thinking": "".join(self._parts), "signature": self._signature}
        return {"thinking_blocks": [thought]}


class SealedBlock(Block):
    """Thinking that only the provider can read."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._start = dict(start)

    def end(self) -> Fields:
        return {"thinking_blocks": [self._start]}


def block_for(start: Mapping[str, Any], calls: int) -> Block:
    """`start` is the block as its beginning shows it; `calls` came before it."""
    match start.get("type"):
        case "text":
            return TextBlock(start)
        case "tool_use":
            return CallBlock(start, calls)
        case "thinking":
            return ThoughtBlock(start)
        case "redacted_thinking":
            return SealedBlock(start)
        case _:
            return Block()


def message_of(blocks: Sequence[Mapping[str, Any]]) -> Fields:
    """The fields of a whole message; `content` always, null where there is no text."""
    texts, thoughts, kept, calls = [], [], [], []
    for block in blocks:
        match block.get("type"):
            case "text":
                texts.append(_text(block, "text"))
            case "thinking":
                thoughts.append(_text(block, "thinking"))
                if block.get("signature"):
                    kept.append(block)
            case "redacted_thinking":
                kept.append(block)
            case "tool_use":
                calls.append(_call(block))
            case _:
                pass
    fields: Fields = {"content": "".join(texts) or (None if calls else "")}
    more = {"reasoning_content": "".join(thoughts), "thinking_blocks": kept, "tool_calls": calls}
    return {**fields, **{name: value for name, value in more.items() if value}}


def arguments_of(given: Any) -> str:
    """A call's input as OpenAI has it: the text of a JSON object."""
    return msgspec.json.encode(given if isinstance(given, dict) else {}).decode()


def _call(block: Mapping[str, Any]) -> Fields:
    function = {"name": _text(block, "name"), "arguments": arguments_of(block.get("input"))}
    return {"id": _text(block, "id"), "type": "function", "function": function}


def _text(block: Mapping[str, Any], name: str) -> str:
    value = block.get(name)
    return value if isinstance(value, str) else ""
