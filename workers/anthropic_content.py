"""The messages of an OpenAI conversation as those of Anthropic's Messages: content blocks, and a system prompt apart.

Sources: Anthropic API reference, "Create a Message" (messages, content blocks); OpenAI API reference, "Chat
Completions".
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers.base import ChatMessage
from workers.errors import WorkerError, WorkerErrorKind

Block = dict[str, Any]

_data_url = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[^,;]*)*;base64,(.*)", re.DOTALL).fullmatch
_unfit = re.compile(r"[^a-zA-Z0-9_-]")
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_OLD_CALL = "function_"  # before the name of a call in the older form, which has no id


class Content(msgspec.Struct):
    """`messages` alternate between user and assistant; `system` are text blocks."""

    system: list[Block]
    messages: list[Block]


def messages_of(messages: Sequence[ChatMessage]) -> Content:
    """Neighbours of one role are one message, so that the results of several calls come together, as they must. Empty
    texts are left out. Raises `WorkerError` naming the part at fault, or when nothing but system messages is left."""
    content = Content([], [])
    for position, message in enumerate(messages):
        fields = _decode(message.raw) if message.raw else {"content": message.text}
        where = f"messages[{position}]"
        if message.role in {"system", "developer"}:
            content.system += _parts(fields.get("content"), where)
        elif message.role == "assistant":
            _append(content.messages, "assistant", _said(fields, where))
        elif message.role in {"tool", "function"}:
            _append(content.messages, "user", [_result(fields, where)])
        else:
            _append(content.messages, "user", _parts(fields.get("content"), where))
    if not content.messages:
        raise _fault("messages", "has nothing but system messages, or nothing at all")
    return content


def _append(messages: list[Block], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": role, "content": blocks})


def _parts(content: Any, where: str) -> list[Block]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        return []
    blocks = [_part(part, f"{where}.content[{position}]") for position, part in enumerate(content)]
    return [block for block in blocks if block.get("type") != "text" or block.get("text")]


def _part(part: Any, where: str) -> Block:
    match part:
        case {"type": "image_url", "image_url": str(url) | {"url": str(url)}}:
            return _kept(part, {"type": "image", "source": _source(url, where)})
        case {"type": "file", "file": {"file_data": str(url)} as file}:
            document: Block = {"type": "document", "source": _source(url, where)}
            if isinstance(name := file.get("filename"), str) and name:
                document["title"] = name
            return _kept(part, document)
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case dict():
            return part
        case _:
            raise _fault(where, "is not an object")


def _kept(part: Mapping[str, Any], block: Block) -> Block:
    """With the mark that says that the prompt up to here is worth caching."""
    return {**block, "cache_control": part["cache_control"]} if "cache_control" in part else block


def _source(url: str, where: str) -> Block:
    if data := _data_url(url):
        return {"type": "base64", "media_type": data[1], "data": data[2]}
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise _fault(where, "has neither an http address nor base64 data in its URL")


def _said(fields: Mapping[str, Any], where: str) -> list[Block]:
    """What the assistant said: its thoughts first, its calls last."""
    given = fields.get("thinking_blocks")
    thoughts = [block for block in given if _is_thought(block)] if isinstance(given, list) else []
    blocks = [*thoughts, *_parts(fields.get("content"), where)]
    calls = fields.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        match call:
            case {"id": str(call_id), "function": {"name": str(name)} as function}:
                blocks.append(_use(call_id, name, function, f"{where}.tool_calls[{position}]"))
            case _:
                raise _fault(f"{where}.tool_calls[{position}]", "is not a call of a function with an id and a name")
    old = fields.get("function_call")
    if isinstance(old, dict) and isinstance(old.get("name"), str):
        called: str = old["name"]
        blocks.append(_use(_OLD_CALL + called, called, old, f"{where}.function_call"))
    return blocks


def _is_thought(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") in _THOUGHTS


def _use(call_id: str, name: str, function: Mapping[str, Any], where: str) -> Block:
    arguments = function.get("arguments") or "{}"
    try:
        given = _decode(arguments) if isinstance(arguments, str) else None
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        given = None
    if given is None:
        raise _fault(f"{where}: arguments", "are not the text of a JSON object")
    return {"type": "tool_use", "id": _id(call_id), "name": name, "input": given}


def _result(fields: Mapping[str, Any], where: str) -> Block:
    call_id = fields.get("tool_call_id")
    if not isinstance(call_id, str):
        name = fields.get("name")
        if not isinstance(name, str):
            raise _fault(where, "has no tool_call_id")
        call_id = _OLD_CALL + name
    result: Block = {"type": "tool_result", "tool_use_id": _id(call_id)}
    if content := _parts(fields.get("content"), where):
        result["content"] = content
    return result


def _id(call_id: str) -> str:
    """Other providers' ids have characters that are not allowed here."""
    return _unfit.sub("_", call_id)


def _fault(where: str, what: str) -> WorkerError:
    return WorkerError(WorkerErrorKind.BAD_REQUEST, f"{where} {what}")
