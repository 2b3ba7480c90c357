"""The head of a model file in GGUF: what must be known of a model before llama.cpp is told to load it.

The format is little-endian: magic, version, number of tensors, number of metadata entries, then these, each a key, a
type and a value (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import mmap
import struct
from pathlib import Path

from pipeline.process.errors import StartError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a number, by its type
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_POOLING = b".pooling_type"  # of the architecture: 0 none, 1 mean, 2 first, 3 last, 4 a rank instead of a vector
_MAKES_VECTORS = (1, 2, 3)


def embeds(path: Path) -> bool:
    """Whether the model is one for embeddings. Raises StartError for what is no GGUF file; one that is damaged within
    is left to llama.cpp, which says more about it."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC:
                raise StartError(f"its gguf is no GGUF file: it begins with {magic!r}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _pooling(data) in _MAKES_VECTORS
    except OSError as error:
        raise StartError(f"its gguf cannot be read: {error.strerror}") from error
    except (struct.error, KeyError, OverflowError, RecursionError):
        return False


def _pooling(data: mmap.mmap) -> int | None:
    """None where the file does not say."""
    version, _, entries = struct.unpack_from("<IQQ", data, 4)
    if version not in _VERSIONS:
        return None
    at = 24
    for _ in range(entries):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        if kind == _UINT32 and key.endswith(_POOLING):
            return int.from_bytes(data[at : at + 4], "little")
        at = _after(data, kind, at)
    return None


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    at += 8
    return data[at : at + length], at + length


def _after(data: mmap.mmap, kind: int, at: int) -> int:
    """Where the value ends that begins at `at`."""
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, length = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in _SIZES:
        return int(at + _SIZES[inner] * length)
    for _ in range(length):  # one of a vocabulary's size; beyond the file's end there is an error
        at = _after(data, inner, at)
    return at
