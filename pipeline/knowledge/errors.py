"""What can go wrong around collections, beyond `pipeline.core.errors.RetrievalError` and `CollectionMismatch`.

RetrievalError               (pipeline.core.errors) a collection cannot answer
├── CollectionMismatch       (pipeline.core.errors) another embedder made it
├── Busy                     the knowledge process has no place left for the query
└── Disconnected             there is no knowledge process at the socket, or it went away before it answered
FrameError                   what arrived at the socket is not a frame of ours
IngestError                  an ingest cannot begin or go on; the message is for the terminal
└── MissingPath              a path to be ingested does not exist
"""

from pathlib import Path

from pipeline.core.errors import RetrievalError


class Busy(RetrievalError):
    """Raised at once when the query queue is full, or a connection has too many requests under way."""


class Disconnected(RetrievalError):
    """Raised when the connection to the knowledge process cannot be made, or breaks before the answer."""


class FrameError(Exception):
    """Raised when a frame is too long or cannot be decoded; the connection is of no use any more."""


class IngestError(Exception):
    """Raised by `ingest` when it cannot begin or go on."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MissingPath(IngestError):
    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} does not exist. (Documents that were deleted leave the collection when the folder that held them "
            "is ingested again.)"
        )
        self.path = path
