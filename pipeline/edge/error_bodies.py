"""Errors as the client of a path expects them: OpenAI's object, or on the paths of Anthropic's dialect theirs."""

from pipeline.core.errors import HeadgateError
from pipeline.edge.errors import error_json
from pipeline.edge.messages_errors import message_error

_MESSAGES = "/v1/messages"


def error_body(path: str, error: HeadgateError, request_id: str) -> bytes:
    return message_error(error, request_id) if tells_request(path) else error_json(error)


def tells_request(path: str) -> bool:
    """Whether errors there tell the request's id, so that no two are the same."""
    return path.startswith(_MESSAGES)
