"""What the readers of backends' answers have in common: JSON, and the errors for what it should not be."""

from typing import TypeVar

import msgspec

from workers.errors import WorkerError, WorkerErrorKind

T = TypeVar("T")

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding raises, whatever the bytes


def decoded(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """Raises `WorkerError`."""
    try:
        if not payload.isascii():
            payload.decode()  # the decoder looks only into the strings that it keeps
        return decoder.decode(payload)
    except UNDECODABLE as error:
        raise malformed("it is not the JSON that was expected") from error


def malformed(what: str) -> WorkerError:
    return WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is malformed: {what}")


def cut(what: str) -> WorkerError:
    """The error for an answer that ended in good order, but too early."""
    return WorkerError(WorkerErrorKind.CUT, what, retryable=True)
