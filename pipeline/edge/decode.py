"""From a body's bytes to typed fields, and from msgspec's errors to OpenAI's."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Raw

from pipeline.core.errors import HeadgateError, InvalidRequest
from pipeline.edge.errors import InvalidJson, InvalidType, MissingParameter, UnknownParameter
from workers.base import ChatMessage, Parameters, Role

T = TypeVar("T")

MESSAGES_MAX = 4096
PARTS_MAX = 4096
_SHOWN_MAX = 80  # characters of a wrong value that are told back
_SEARCHED_MAX = 65_536  # bytes of a wrong body that are decoded again to find the value

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Positive = Annotated[int, Meta(ge=1, le=2_147_483_647)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
StopSequence = Annotated[str, Meta(max_length=1024)]
Stop = StopSequence | Annotated[list[StopSequence], Meta(max_length=64)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content. Parts of other types than `text` reach the backend as they are."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation. Fields that are not described here reach the backend as they are."""

    role: Role
    content: str | Annotated[list[ContentPart], Meta(max_length=PARTS_MAX)] | None = None


RawMessages = Annotated[list[Raw], Meta(min_length=1, max_length=MESSAGES_MAX)]
Messages = Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES_MAX)]

_decode_message = msgspec.json.Decoder(Message).decode
_split = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL).fullmatch
_missing = re.compile(r"Object missing required field `(.*)`", re.DOTALL).fullmatch
_unknown = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL).fullmatch
_steps = re.compile(r"\.([^.\[]+)|\[(\d+)\]").findall


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises `InvalidRequest`, or one of its kinds, for whatever is wrong with `body`."""
    try:
        if not body.isascii():
            body.decode()  # the decoder looks only into the strings that it keeps
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(error, body) from error


def decode_messages(raws: Sequence[Raw]) -> tuple[ChatMessage, ...]:
    """Each message with its text and its own JSON. Raises `InvalidRequest` naming the message at fault."""
    messages: list[ChatMessage] = []
    for raw in raws:
        try:
            message = _decode_message(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise refused(error, bytes(raw), f"messages[{len(messages)}]") from error
        content = message.content
        if content is None:
            content = ""
        elif not isinstance(content, str):
            content = _joined(content, len(messages))
        messages.append(ChatMessage(message.role, content, bytes(raw)))
    return tuple(messages)


def question_of(messages: Sequence[ChatMessage]) -> str:
    """The newest user message's text; without one, the last message's."""
    for message in reversed(messages):
        if message.role == "user":
            return message.text
    return messages[-1].text


def parameters(
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    stop: str | list[str] | None,
    n: int | None,
    seed: int | None,
) -> Parameters:
    """As the workers take them: null is the same as not sent, empty stop sequences are none."""
    sequences = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in sequences:
        sequences = tuple(sequence for sequence in sequences if sequence)
    return Parameters(max_tokens, temperature, top_p, sequences, 1 if n is None else n, seed)


def refused(error: Exception, body: bytes, prefix: str = "") -> HeadgateError:
    """`error` in OpenAI's words. `prefix` is where `body` stands in the whole request."""
    if not isinstance(error, msgspec.ValidationError):
        return _not_json(error, prefix)
    split = _split(str(error))
    what, path = (split["what"], split["path"] or "") if split else (str(error), "")
    param = f"{prefix}{path}".removeprefix(".")
    missing, unknown = _missing(what), _unknown(what)
    if missing:
        name = f"{param}.{missing[1]}".removeprefix(".")
        return MissingParameter(f"Missing required parameter: '{name}'.", param=name)
    if unknown:
        name = f"{param}.{unknown[1]}".removeprefix(".")
        return UnknownParameter(f"Unknown parameter: '{name}'.", param=name)
    found = _found(body, path)
    if path.endswith(".role") and what.startswith("Invalid enum"):
        roles = ", ".join(f"'{role}'" for role in get_args(Role))
        return InvalidRequest(f"Invalid value for '{param}': expected one of {roles}{found}.", param=param)
    what = what.replace("`", "")
    where = f" for '{param}'" if param else ""
    kind = InvalidType if ", got " in what else InvalidRequest
    return kind(f"Invalid value{where}: {what[:1].lower()}{what[1:]}{found}.", param=param or None)


def _not_json(error: Exception, prefix: str) -> HeadgateError:
    where = f" in '{prefix}'" if prefix else ""
    if isinstance(error, UnicodeDecodeError):
        return InvalidJson(f"The request's body is not UTF-8{where}: {error.reason}.", param=prefix or None)
    if isinstance(error, RecursionError):
        return InvalidJson(f"The request's JSON is nested too deeply{where}.", param=prefix or None)
    return InvalidJson(f"The request's body could not be parsed as JSON{where}: {error}.", param=prefix or None)


def _found(body: bytes, path: str) -> str:
    """', found …' with the value at `path`, shortened; empty where it cannot be told."""
    if not path or len(body) > _SEARCHED_MAX:
        return ""
    try:
        value: Any = msgspec.json.decode(body)
        for name, index in _steps(path):
            value = value[int(index)] if index else value[name]
        shown = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, RecursionError):
        return ""
    return f", found {shown if len(shown) <= _SHOWN_MAX else shown[: _SHOWN_MAX - 1] + '…'}"


def _joined(parts: Sequence[ContentPart], message: int) -> str:
    """The text parts' texts, a line each."""
    texts = []
    for position, part in enumerate(parts):
        if part.type != "text":
            continue
        if part.text is None:
            name = f"messages[{message}].content[{position}].text"
            raise MissingParameter(f"Missing required parameter: '{name}'.", param=name)
        texts.append(part.text)
    return "\n".join(texts)
