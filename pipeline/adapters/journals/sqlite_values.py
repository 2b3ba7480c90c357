"""Large values stand apart from entries, once in each run, under the SHA-256 of what they are."""

import hashlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.msgpack import Decoder, Ext

from pipeline.adapters.journals import codec
from pipeline.workflow.journal import AnyEntry, RunRecord

_DEPTH = 4  # of values in values that are looked at for large ones
_WIDEST = 1000  # wider ones are stored whole
_PART = 1 << 20  # bytes in a row: what is deleted in one go stays small
_ANY = frozenset({"value", "outputs", "payload"})  # fields of entries that may be a reference as a whole
_OBJECTS = frozenset({"fields", "error"})  # whose values may be

Store = Callable[[bytes, bytes], None]  # digest, data


def slim_entry(data: bytes, inline_bytes: int, store: Store) -> bytes:
    """An encoded entry with references for its large values, which `store` is given."""
    if len(data) <= inline_bytes:
        return data
    slim = _Slim(inline_bytes, store)
    entry = codec.decode(data)
    for name in _ANY & entry.keys():
        entry[name] = slim(entry[name], _DEPTH)
    for name in _OBJECTS & entry.keys():
        if isinstance(entry[name], dict):
            entry[name] = {key: slim(value, _DEPTH - 1) for key, value in entry[name].items()}
    return codec.encode_again(entry)


def slim_value(data: bytes, inline_bytes: int, store: Store) -> bytes:
    if len(data) <= inline_bytes:
        return data
    return codec.encode_again(_Slim(inline_bytes, store)(codec.decode(data), _DEPTH))


class _Slim:
    def __init__(self, inline_bytes: int, store: Store) -> None:
        self._inline_bytes = inline_bytes
        self._store = store

    def __call__(self, value: Any, depth: int) -> Any:
        data = codec.encode_again(value)
        if len(data) <= self._inline_bytes:
            return value
        if depth and isinstance(value, list | dict) and len(value) <= _WIDEST:
            value = self._inside(value, depth - 1)
            data = codec.encode_again(value)
            if len(data) <= self._inline_bytes:
                return value
        digest = hashlib.sha256(data).digest()
        self._store(digest, data)
        return Ext(codec.REFERENCE, digest)

    def _inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {key: self(item, depth) for key, item in value.items()}
        return [self(item, depth) for item in value]


def store_blob(connection: sqlite3.Connection, run: int, digest: bytes, data: bytes) -> bool:
    """Whether it is new."""
    there = connection.execute("SELECT 1 FROM blobs WHERE run = ? AND digest = ? LIMIT 1", (run, digest)).fetchone()
    if there is None:
        parts = [data[at : at + _PART] for at in range(0, len(data), _PART)]
        connection.executemany(
            "INSERT INTO blobs (run, digest, part, data) VALUES (?, ?, ?, ?)",
            [(run, digest, number, part) for number, part in enumerate(parts)],
        )
    return there is None


class Ending(msgspec.Struct):
    """What lists show of a change of state: not its outputs, which may be large."""

    error: dict[str, Any] | None = None
    wake_at: float | None = None


class Values:
    """Decodes what is stored, with its large values. To be used from one thread, within one transaction. `taken` counts
    the bytes that were decoded."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.taken = 0
        self._run = 0
        self._apart = 0  # bytes of values that stand apart

    def entry(self, run: int, body: bytes) -> AnyEntry:
        self.taken += len(body)
        entry: AnyEntry = self._decoded(_entries, run, body)
        return entry

    def outline(self, run: int, body: bytes, most: int) -> AnyEntry:
        """As `Journal.outline` has it; what stands apart is read only where it is to be shown."""
        self._apart = 0
        entry: AnyEntry = self._decoded(_outlines, run, body)
        size = len(body) + self._apart
        if size > most:
            return codec.outlined(entry, size)
        return self.entry(run, body) if self._apart else entry

    def ending(self, run: int, body: bytes) -> Ending:
        ending: Ending = self._decoded(_endings, run, body)
        return ending

    def value(self, run: int, data: bytes) -> Any:
        return self._decoded(_values, run, data)

    def _decoded(self, decoder: "Decoder[Any]", run: int, data: bytes) -> Any:
        self._run, _reading.values = run, self
        try:
            return decoder.decode(data)
        finally:
            _reading.values = None

    def extension(self, code: int, data: memoryview) -> Any:
        if code != codec.REFERENCE:
            return codec.extension(code, data)
        parts = self._connection.execute(
            "SELECT data FROM blobs WHERE run = ? AND digest = ? ORDER BY part", (self._run, bytes(data))
        ).fetchall()
        if not parts:
            raise sqlite3.DatabaseError("a stored value is missing")
        whole = b"".join(part for (part,) in parts)
        self.taken += len(whole)
        return _values.decode(whole)

    def measured(self, code: int, data: memoryview) -> Any:
        if code != codec.REFERENCE:
            return codec.extension(code, data)
        (size,) = self._connection.execute(
            "SELECT total(length(data)) FROM blobs WHERE run = ? AND digest = ?", (self._run, bytes(data))
        ).fetchone()
        self._apart += int(size)
        return None


class _Reading(threading.local):
    """Who is decoding in this thread. Decoders are the same for all: each of its own would refer to it and be referred
    to by it, and stay until such circles are looked for."""

    values: Values | None = None


_reading = _Reading()


def _extension(code: int, data: memoryview) -> Any:
    assert _reading.values is not None  # noqa: S101 - nobody else decodes with these
    return _reading.values.extension(code, data)


def _measured(code: int, data: memoryview) -> Any:
    assert _reading.values is not None  # noqa: S101 - as above
    return _reading.values.measured(code, data)


_outlines = codec.decoder_of(AnyEntry, _measured)
_entries = codec.decoder_of(AnyEntry, _extension)
_endings = codec.decoder_of(Ending, _extension)
_values = codec.decoder_of(Any, _extension)


def made_of(run: RunRecord) -> bytes:
    """What never changes of a run's row. Its inputs stand apart."""
    return codec.encode(
        RunRecord(
            id=run.id,
            workflow=run.workflow,
            version=run.version,
            bundle=run.bundle,
            state=run.state,
            created_at=run.created_at,
            updated_at=run.updated_at,
            caller=run.caller,
            priority=run.priority,
            idempotency_key=run.idempotency_key,
            request_digest=run.request_digest,
            options=run.options,
        )
    )
