"""What a client asks for, taken apart, for workers whose backend speaks another dialect than OpenAI's.

Source: OpenAI API reference, "Chat Completions" (create). `reasoning_content` is what clients send back that keep the
text of a model's reasoning. What is decoded here is what other dialects have a word for; the JSON of tools' parameters
and of schemas stays as the client wrote it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from workers.base import ChatMessage, GenerationRequest, Parameters
from workers.errors import WorkerError, WorkerErrorKind
from workers.reading import UNDECODABLE

_NULL = b"null"


class Image(msgspec.Struct, frozen=True):
    """A part of a message. `url` is an address, or the image itself as a data: URL."""

    url: str
    detail: str | None = None


class Function(msgspec.Struct, frozen=True):
    """`arguments` is JSON text, as a model wrote it: an object where all is well."""

    name: str
    arguments: str = ""


class Call(msgspec.Struct, frozen=True):
    """A call of a tool that an assistant's message asks for."""

    function: Function
    id: str = ""
    type: Literal["function"] = "function"


class Turn(msgspec.Struct, frozen=True):
    """One message. `parts` are texts and images in order; `call_id` is the call that a tool's message answers."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[str | Image, ...]
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    reasoning: str = ""

    @property
    def text(self) -> str:
        """Its texts, a line each."""
        return "\n".join([part for part in self.parts if isinstance(part, str)])

    @property
    def images(self) -> list[Image]:
        return [part for part in self.parts if isinstance(part, Image)]


class ToolFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    """`parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: Raw | UnsetType = UNSET
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    function: ToolFunction
    type: Literal["function"] = "function"


class Asked(msgspec.Struct, frozen=True):
    """A request. `tools` are those that may be called: none of them where `choice` is none, and where the client wants
    one by name, that one, with `choice` required. `schema` is what a JSON answer has to follow. `fields` are those of
    the client's body, each as its JSON."""

    turns: tuple[Turn, ...]
    parameters: Parameters
    fields: dict[str, Raw]
    tools: tuple[Tool, ...] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    answer: Literal["text", "json"] = "text"
    schema: Raw | None = None
    effort: str | None = None

    def given(self, names: Sequence[str]) -> dict[str, Raw]:
        """Those of the client's fields that go by these names, for what a backend calls the same."""
        return {name: self.fields[name] for name in names if bytes(self.fields.get(name, _NULL)) != _NULL}


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class _SchemaFormat(msgspec.Struct):
    schema: Raw | UnsetType = UNSET


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _SchemaFormat | None = None


class _Asking(msgspec.Struct):
    """Of a body, what is decoded."""

    tools: list[Tool] | None = None
    tool_choice: Any = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_asking = msgspec.json.Decoder(_Asking).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def asked(request: GenerationRequest) -> Asked:
    """Raises `WorkerError`, naming what no other dialect could be told."""
    if request.parameters.n > 1:
        raise bad(f"n is {request.parameters.n}, and this backend gives one choice an answer")
    try:
        body = request.body or b"{}"
        body.decode()  # the decoder looks only into the strings that it keeps
        fields, asking = _decode_fields(body), _decode_asking(body)
    except UNDECODABLE as error:
        raise bad(f"the request's body cannot be understood: {_why(error)}") from error
    tools, choice = _chosen(tuple(asking.tools or ()), asking.tool_choice)
    answer, schema = _format(asking.response_format)
    turns = tuple([_turn(message, f"messages[{at}]") for at, message in enumerate(request.messages)])
    return Asked(turns, request.parameters, fields, tools, choice, answer, schema, asking.reasoning_effort)


def bad(what: str) -> WorkerError:
    """The error for a request that cannot be put in the backend's words."""
    return WorkerError(WorkerErrorKind.BAD_REQUEST, what)


def _why(error: Exception) -> str:
    """What is wrong and where, of JSON that is not of the expected shape."""
    return str(error) if isinstance(error, msgspec.ValidationError) else "it is not JSON"


def _turn(message: ChatMessage, where: str) -> Turn:
    role: Any = "system" if message.role == "developer" else message.role
    if role == "function":
        raise bad(f"{where}: this backend knows no messages of the role function; use tools")
    if not message.raw:
        return Turn(role, (message.text,))
    try:
        message.raw.decode()
        found = _decode_message(message.raw)
    except UNDECODABLE as error:
        raise bad(f"{where}: {_why(error)}") from error
    content = found.content or ""
    parts: tuple[str | Image, ...] = (
        (content,)
        if isinstance(content, str)
        else tuple([_part(part, f"{where}.content[{at}]") for at, part in enumerate(content)])
    )
    calls = tuple(found.tool_calls or ())
    return Turn(role, parts, calls, found.tool_call_id or "", found.reasoning_content or "")


def _part(part: dict[str, Any], where: str) -> str | Image:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url), **options}}:
            detail = options.get("detail")
            return Image(url, detail if isinstance(detail, str) else None)
        case {"type": "text" | "refusal" | "image_url"}:
            raise bad(f"{where}: it is malformed")
        case _:
            raise bad(f"{where}: this backend takes texts and images only")


def _format(wanted: _Format | None) -> tuple[Literal["text", "json"], Raw | None]:
    if wanted is None or wanted.type == "text":
        return "text", None
    if wanted.type == "json_object":
        return "json", None
    schema = UNSET if wanted.json_schema is None else wanted.json_schema.schema
    if isinstance(schema, UnsetType):
        raise bad("response_format.json_schema has no schema")
    return "json", schema


def _chosen(tools: tuple[Tool, ...], wish: Any) -> tuple[tuple[Tool, ...], Literal["auto", "none", "required"]]:
    """The tools that may be called, and whether one must be."""
    match wish:
        case None | "auto":
            return tools, "auto"
        case "none":
            return tools, "none"
        case "required":
            return _named(tools, None), "required"
        case {"type": "function", "function": {"name": str(name)}}:
            return _named(tools, [name]), "required"
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]}}:
            names = [item.get("function", {}).get("name") if isinstance(item, dict) else None for item in allowed]
            return _named(tools, names), mode
        case _:
            raise bad("tool_choice is not one of auto, none, required, a function, allowed_tools")


def _named(tools: tuple[Tool, ...], names: Sequence[Any] | None) -> tuple[Tool, ...]:
    """Those of `tools` that have these names; all of them for None."""
    known = {tool.function.name for tool in tools}
    if unknown := [name for name in names or () if name not in known]:
        raise bad(f"tool_choice names {unknown[0]!r}, which is none of the tools")
    if not tools:
        raise bad("tool_choice asks for a tool, and there are none")
    return tools if names is None else tuple([tool for tool in tools if tool.function.name in names])
