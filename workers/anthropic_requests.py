"""Requests in OpenAI's chat dialect as requests of Anthropic's Messages. No I/O.

Source: Anthropic API reference, "Create a Message", "Count tokens in a Message"; of the features, "Tool use",
"Structured outputs", "Extended thinking", "Effort".

What Messages do not have (penalties, log probabilities, seeds, `json_object`) is left out; parts and tools of types
unknown to us stay as they are, for the backend to judge.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from workers.anthropic_content import Content, messages_of
from workers.base import GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_COUNTED = ("model", "messages", "system", "thinking", "tool_choice", "tools", "output_config")
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, UnicodeEncodeError, RecursionError)

Fields = dict[str, Any]


def encode_request(request: GenerationRequest, *, model: str | None, answer_tokens: int) -> bytes:
    """The body to send. `model` replaces the client's name for it; `answer_tokens` is the answer's limit where the
    request has none, which Messages must have. Raises `WorkerError`."""
    try:
        fields = _translated(request, model)
        fields["max_tokens"] = request.parameters.max_tokens or answer_tokens
        fields["stream"] = request.stream
        fields.update(_sampling(request))
        return msgspec.json.encode(fields)
    except _FAULTS as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error


def encode_count(request: GenerationRequest, *, model: str | None) -> bytes:
    """The body that asks how many tokens the request's prompt has. Raises `WorkerError`."""
    try:
        fields = _translated(request, model)
        return msgspec.json.encode({name: fields[name] for name in _COUNTED if name in fields})
    except _FAULTS as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error


def _translated(request: GenerationRequest, model: str | None) -> Fields:
    if request.parameters.n > 1:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "this backend gives one answer to a request, not several")
    body: Fields = _decode(request.body) if request.body else {}
    content: Content = messages_of(request.messages)
    fields: Fields = {"model": model or request.model, "messages": content.messages}
    if content.system:
        fields["system"] = content.system
    fields.update(_tools(body))
    fields.update(_reasoning(body))
    output = _output(body)
    if output:
        fields["output_config"] = output
    user = body.get("user")
    if isinstance(user, str) and user:
        fields["metadata"] = {"user_id": user}
    return fields


_decode = msgspec.json.Decoder(Fields).decode


def _sampling(request: GenerationRequest) -> Fields:
    """OpenAI's temperatures go up to 2, these to 1."""
    parameters = request.parameters
    fields: Fields = {
        "temperature": None if parameters.temperature is None else min(parameters.temperature, 1.0),
        "top_p": parameters.top_p,
        "top_k": _decode(request.body).get("top_k") if request.body else None,
        "stop_sequences": parameters.stop or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tools(body: Fields) -> Fields:
    """`tools` and `tool_choice`, with whether calls may come several at once in the latter."""
    given = body.get("tools")
    tools = [_tool(tool) for tool in given] if isinstance(given, list) else []
    if not tools:
        return {}
    choice = _choice(body.get("tool_choice"))
    if body.get("parallel_tool_calls") is False and (choice is None or choice["type"] != "none"):
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return {"tools": tools} if choice is None else {"tools": tools, "tool_choice": choice}


def _tool(tool: Any) -> Any:
    match tool:
        case {"type": "function", "function": {"name": str(name)} as function}:
            made: Fields = {"name": name}
            if isinstance(description := function.get("description"), str):
                made["description"] = description
            parameters = function.get("parameters")
            made["input_schema"] = parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}}
            if function.get("strict") is True:
                made["strict"] = True
            return made
        case _:
            return tool


def _choice(choice: Any) -> Fields | None:
    match choice:
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "tool", "name": name}
        case {"type": str()}:
            return dict(choice)
        case _:
            return None


def _reasoning(body: Fields) -> Fields:
    """`thinking`: as it is where the body has such a field, else by `reasoning_effort`. A forced call of a tool leaves
    no room for thinking."""
    given = body.get("thinking")
    if isinstance(given, dict):
        return {"thinking": given}
    effort = body.get("reasoning_effort")
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    forced = body.get("tools") and (_choice(body.get("tool_choice")) or {"type": "auto"})["type"] in {"any", "tool"}
    return {"thinking": {"type": "adaptive"}} if _effort(effort) and not forced else {}


def _output(body: Fields) -> Fields:
    """`output_config`: how much effort, and which form the answer is to have."""
    output: Fields = {}
    if effort := _effort(body.get("reasoning_effort")):
        output["effort"] = effort
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema}}:
            output["format"] = {"type": "json_schema", "schema": schema}
        case _:
            pass
    return output


def _effort(given: Any) -> str | None:
    return _EFFORTS.get(given) if isinstance(given, str) else None
