"""A request of Anthropic's Messages in OpenAI's chat dialect, which everything behind the edge understands.

Sources: Anthropic API reference, "Create a Message"; OpenAI API reference, "Chat Completions". What the latter has no
word for (`cache_control`, `is_error`, `service_tier`) reaches only a backend of the former, by `Prompt.native`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.errors import InvalidRequest
from pipeline.edge.errors import MissingParameter
from pipeline.edge.messages_types import (
    CountBody,
    GivenMessage,
    MessagesBody,
    SystemBlock,
    ToolChoice,
    ToolChoiceAny,
    ToolChoiceAuto,
    ToolChoiceNone,
    ToolChoiceTool,
)
from workers.base import ChatMessage, Role

Object = dict[str, Any]

_ROLES = ("user", "assistant", "system")
# Budgets of thinking, from the largest, and the effort that each is about.
_EFFORTS = ((10_000, "high"), (4_000, "medium"), (0, "low"))

encode = msgspec.json.encode


def chat_messages(body: MessagesBody | CountBody) -> tuple[ChatMessage, ...]:
    """The conversation, its system prompt first. Raises `InvalidRequest` naming the block at fault."""
    messages: list[ChatMessage] = []
    if body.system:
        text = body.system if isinstance(body.system, str) else _joined(body.system)
        messages.append(_message("system", text, {"content": text}))
    for position, message in enumerate(body.messages):
        _add(messages, message, f"messages[{position}]")
    return tuple(messages)


def chat_body(body: MessagesBody, messages: Sequence[ChatMessage]) -> bytes:
    """The whole request."""
    fields: Object = {
        "model": body.model,
        "messages": [msgspec.Raw(message.raw) for message in messages],
        "max_tokens": body.max_tokens,
        "stream": body.stream,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": [sequence for sequence in body.stop_sequences or () if sequence] or None,
        "user": None if body.metadata is None else body.metadata.user_id,
        "reasoning_effort": _effort(body),
        "response_format": _format(body),
        **_tools(body),
    }
    return encode({name: value for name, value in fields.items() if value is not None})


def _add(messages: list[ChatMessage], message: GivenMessage, where: str) -> None:
    content = message.content
    match message.role:
        case "user":
            if isinstance(content, str):
                messages.append(_message("user", content, {"content": content}))
            else:
                _add_user(messages, content, where)
        case "assistant":
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            messages.append(_assistant(blocks, where))
        case "system":
            text = content if isinstance(content, str) else _texts(_parts(content, where))
            messages.append(_message("system", text, {"content": text}))
        case other:
            roles = ", ".join(f"'{role}'" for role in _ROLES)
            found = f", found {encode(other[:80]).decode()}"
            raise InvalidRequest(
                f"Invalid value for '{where}.role': expected one of {roles}{found}.", param=f"{where}.role"
            )


def _add_user(messages: list[ChatMessage], content: Sequence[Object], where: str) -> None:
    """Results of tools are messages of their own, in front of what else the user says."""
    rest: list[Object] = []
    for position, block in enumerate(content):
        place = f"{where}.content[{position}]"
        if _type(block, place) == "tool_result":
            messages.append(_result(block, place))
        else:
            rest.append(_part(block, place))
    if rest or not content:
        text = _texts(rest)
        plain = all(part.get("type") == "text" for part in rest)
        messages.append(_message("user", text, {"content": text if plain else rest}))


def _result(block: Mapping[str, Any], where: str) -> ChatMessage:
    call_id = _string(block, "tool_use_id", where)
    content = block.get("content")
    if isinstance(content, list):
        parts = _parts(content, f"{where}.content", "")
    else:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else []
    text = _texts(parts)
    plain = all(part.get("type") == "text" for part in parts)
    return _message("tool", text, {"tool_call_id": call_id, "content": text if plain else parts})


def _assistant(content: Sequence[Object], where: str) -> ChatMessage:
    texts: list[Object] = []
    calls: list[Object] = []
    thoughts: list[Object] = []
    for position, block in enumerate(content):
        place = f"{where}.content[{position}]"
        match _type(block, place):
            case "tool_use":
                calls.append(_call(block, place))
            case "thinking" | "redacted_thinking":
                thoughts.append(block)
            case "text":
                texts.append(_part(block, place))
            case _:  # of tools that the provider ran: their results are in what it said next
                pass
    text = "".join([part["text"] for part in texts])
    fields: Object = {"content": text or (None if calls else "")}
    if calls:
        fields["tool_calls"] = calls
    reasoning = "".join([said for block in thoughts if isinstance(said := block.get("thinking"), str)])
    if reasoning:
        fields["reasoning_content"] = reasoning
    signed = [block for block in thoughts if block.get("signature") or block["type"] == "redacted_thinking"]
    if signed:
        fields["thinking_blocks"] = signed
    return _message("assistant", text, fields)


def _call(block: Mapping[str, Any], where: str) -> Object:
    given = block.get("input", {})
    if not isinstance(given, dict):
        raise InvalidRequest(f"Invalid value for '{where}.input': expected an object.", param=f"{where}.input")
    function = {"name": _string(block, "name", where), "arguments": encode(given).decode()}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _parts(content: Sequence[Any], where: str, below: str = ".content") -> list[Object]:
    return [_part(block, f"{where}{below}[{position}]") for position, block in enumerate(content)]


def _part(block: Any, where: str) -> Object:
    """A block as a content part; one of another type is left as it is, for the backend to judge."""
    match _type(block, where):
        case "text":
            return {"type": "text", "text": _string(block, "text", where)}
        case "image":
            return {"type": "image_url", "image_url": {"url": _url(block, where)}}
        case "document" if _source(block).get("type") == "base64":
            file: Object = {"file_data": _url(block, where)}
            if isinstance(title := block.get("title"), str):
                file["filename"] = title
            return {"type": "file", "file": file}
        case "document" if _source(block).get("type") == "text":
            return {"type": "text", "text": _string(_source(block), "data", f"{where}.source")}
        case _:
            return dict(block)


def _source(block: Mapping[str, Any]) -> Mapping[str, Any]:
    source = block.get("source")
    return source if isinstance(source, dict) else {}


def _url(block: Mapping[str, Any], where: str) -> str:
    source = _source(block)
    match source.get("type"):
        case "base64":
            media, data = (_string(source, name, f"{where}.source") for name in ("media_type", "data"))
            return f"data:{media};base64,{data}"
        case "url":
            return _string(source, "url", f"{where}.source")
        case _:
            param = f"{where}.source.type"
            raise InvalidRequest(f"Invalid value for '{param}': expected 'base64' or 'url'.", param=param)


def _type(block: Any, where: str) -> str:
    if not isinstance(block, dict):
        raise InvalidRequest(f"Invalid value for '{where}': expected an object.", param=where)
    return _string(block, "type", where)


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if isinstance(value, str):
        return value
    param = f"{where}.{name}"
    if name in block:
        raise InvalidRequest(f"Invalid value for '{param}': expected a string.", param=param)
    raise MissingParameter(f"Missing required parameter: '{param}'.", param=param)


def _texts(parts: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join([part["text"] for part in parts if part.get("type") == "text"])


def _joined(blocks: Sequence[SystemBlock]) -> str:
    return "\n".join([block.text for block in blocks])


def _message(role: Role, text: str, fields: Object) -> ChatMessage:
    return ChatMessage(role, text, encode({"role": role, **fields}))


def _tools(body: MessagesBody) -> Object:
    if not body.tools:
        return {}
    fields: Object = {"tools": [_tool(tool) for tool in body.tools]}
    choice = body.tool_choice
    if choice is None:
        return fields
    fields["tool_choice"] = _choice(choice)
    if not isinstance(choice, ToolChoiceNone) and choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    return fields


def _choice(choice: ToolChoice) -> Any:
    match choice:
        case ToolChoiceAuto():
            return "auto"
        case ToolChoiceAny():
            return "required"
        case ToolChoiceNone():
            return "none"
        case ToolChoiceTool(name=name):
            return {"type": "function", "function": {"name": name}}


def _tool(tool: Mapping[str, Any]) -> Object:
    """A tool of the client's; one that the provider knows has a type of its own, and stays as it is."""
    kind = tool.get("type")
    if (kind is not None and kind != "custom") or not isinstance(tool.get("name"), str):
        return dict(tool)
    function: Object = {"name": tool["name"], "parameters": tool.get("input_schema")}
    for name in ("description", "strict"):
        if name in tool:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _effort(body: MessagesBody) -> str | None:
    """How much the model is to think, where the request says so."""
    if body.output_config is not None and body.output_config.effort is not None:
        return body.output_config.effort
    budget = None if body.thinking is None else body.thinking.budget_tokens
    if budget is None:
        return None
    return next((effort for least, effort in _EFFORTS if budget >= least), None)


def _format(body: MessagesBody) -> Object | None:
    if body.output_config is None or body.output_config.format is None:
        return None
    schema = {"name": "answer", "schema": body.output_config.format.schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}
