"""Values and entries as bytes: msgpack, and what it lacks.

Lone surrogates in texts become U+FFFD: no encoding can hold them. Whole numbers of any size stay exact. What is not
JSON is refused with `ValueError`: NaN and the infinities, objects of other kinds, nesting deeper than the interpreter
can follow.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec.msgpack import Decoder, Encoder, Ext

from pipeline.workflow.journal import (
    AnyEntry,
    Bundle,
    Left,
    Registered,
    RunRecord,
    Signalled,
    StateChanged,
    StepCompleted,
)

REFERENCE = 1  # to a value that is stored apart: its SHA-256
_INTEGER = 2  # of more than 64 bits: its bytes

_FINITE = frozenset([str, int, bool, type(None)])
_encode = Encoder().encode
# How the doubles that JSON lacks begin, after msgpack's mark. May also be found inside of other things.
_SUSPECTS = (b"\xcb\x7f\xf8", b"\xcb\xff\xf8", b"\xcb\x7f\xf0", b"\xcb\xff\xf0")

_S = TypeVar("_S", Registered, RunRecord)
Hook = Callable[[int, memoryview], Any]


def encode(value: Any) -> bytes:
    """Raises `ValueError` for what is not JSON."""
    try:
        data = encode_again(value)
        if b"\xcb" in data and any(suspect in data for suspect in _SUSPECTS):
            _check_finite(_opened(value), "the value")
    except RecursionError:
        raise ValueError("The value is nested too deeply") from None
    except TypeError as error:
        raise ValueError(f"The value is not JSON: {error}") from error
    return data


def decode(data: bytes) -> Any:
    """Without references."""
    return _plain.decode(data)


def decoder_of(kind: Any, hook: Hook) -> "Decoder[Any]":
    return Decoder(kind, ext_hook=hook)


def extension(code: int, data: memoryview) -> Any:
    """What stands for a value that msgpack lacks. References are left as they are."""
    if code == _INTEGER:
        return int.from_bytes(data, "big", signed=True)
    return Ext(code, bytes(data))


def clean_text(text: str) -> str:
    """Without lone surrogates."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encode_again(value: Any) -> bytes:
    """What has been encoded before, or part of it."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, OverflowError):
        return _encode(_cleaned(_opened(value)))


def clean_texts(struct: _S) -> _S:
    """The struct without lone surrogates in its own texts."""
    texts = {name: getattr(struct, name) for name in struct.__struct_fields__}
    changes = {name: clean_text(text) for name, text in texts.items() if isinstance(text, str) and not text.isascii()}
    return msgspec.structs.replace(struct, **changes) if changes else struct


def _opened(value: Any) -> Any:
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return Ext(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    return value


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON does not have")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        if set(map(type, value)) == {float} and all(map(math.isfinite, value)):  # most of a value that is large
            return
        for index, item in enumerate(value):
            if type(item) not in _FINITE:
                _check_finite(item, f"{where}[{index}]")


_plain: Decoder[Any] = Decoder(ext_hook=extension)
_entries: Decoder[AnyEntry] = Decoder(AnyEntry, ext_hook=extension)
_records: Decoder[RunRecord] = Decoder(RunRecord, ext_hook=extension)


def decode_entry(data: bytes) -> AnyEntry:
    """Without references."""
    return _entries.decode(data)


def outlined(entry: AnyEntry, size: int) -> AnyEntry:
    """What is left of one of so many bytes (`Journal.outline`)."""
    if isinstance(entry, StepCompleted):
        return msgspec.structs.replace(entry, value=Left(size), fields={})
    if isinstance(entry, StateChanged):
        return msgspec.structs.replace(entry, outputs=None)
    if isinstance(entry, Signalled):
        return msgspec.structs.replace(entry, payload=None)
    return entry


def decode_record(data: bytes) -> RunRecord:
    return _records.decode(data)


def encode_bundle(bundle: Bundle) -> bytes:
    """The definitions are kept as the JSON that they are."""
    others = {name: bytes(raw) for name, raw in bundle.others.items()}
    return encode({"main": bytes(bundle.main), "others": others})


def decode_bundle(digest: str, data: bytes) -> Bundle:
    found = decode(data)
    others = {name: msgspec.Raw(raw) for name, raw in found["others"].items()}
    return Bundle(digest, msgspec.Raw(found["main"]), others)
