import json

import msgspec
import pytest

from pipeline.core import errors as core_errors
from pipeline.core.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    HeadgateError,
    InvalidRequest,
    Overloaded,
    RateLimited,
    SlowClient,
    Unauthorized,
    UnknownModel,
)
from pipeline.core.outcomes import OUTCOME_OF, Outcome, Reason
from pipeline.edge import errors
from pipeline.edge.errors import WrongMethod, error_fields, error_json, refusal_bytes


def subclasses(root: type[HeadgateError]) -> set[type[HeadgateError]]:
    return {root} | {found for direct in root.__subclasses__() for found in subclasses(direct)}


def fields(error: HeadgateError) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in error_fields(error).split("\r\n") if line)


def test_an_error_object_is_openais():
    error = UnknownModel('The model "x" does not exist', param="model")
    assert json.loads(error_json(error)) == {
        "error": {
            "message": 'The model "x" does not exist',
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_what_is_no_unicode_is_told_with_replacements():
    error = InvalidRequest("bad path /\udcff/x", param="\udcff")
    assert json.loads(error_json(error))["error"]["message"] == "bad path /?/x"


def test_every_error_of_the_edge_counts_as_rejected():
    of_edge = [kind for kind in subclasses(InvalidRequest) if kind.__module__ == errors.__name__]
    assert len(of_edge) >= 9
    for kind in of_edge:
        assert OUTCOME_OF[Reason(kind.reason)] is Outcome.REJECTED
        assert 400 <= kind.status < 500


@pytest.mark.parametrize("module", [core_errors, errors])
def test_the_tree_in_the_docstring_names_every_error(module):
    defined = {kind.__name__ for kind in subclasses(HeadgateError) if kind.__module__ == module.__name__}
    assert defined
    assert [name for name in defined if name not in (module.__doc__ or "")] == []


def test_a_shed_request_is_told_when_to_come_back_and_where_it_was_shed():
    error = Overloaded("full", place="inference", reason="queue_full", retry_after=1.2)
    assert fields(error) == {
        "Retry-After": "2",
        "retry-after-ms": "1200",
        "X-Headgate-Shed-Stage": "inference",
        "X-Headgate-Shed-Reason": "queue_full",
    }


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), SlowClient("slow")])
def test_official_clients_must_not_repeat_what_came_too_late(error):
    assert fields(error) == {"x-should-retry": "false"}


def test_a_backends_wish_is_handed_on():
    error = BackendFailed("busy", reason="backend_rate_limited", backend_status=429, retry_after=7)
    assert fields(error) == {"Retry-After": "7", "retry-after-ms": "7000"}


def test_who_is_not_known_is_told_how_a_key_is_sent():
    assert fields(Unauthorized("x")) == {"WWW-Authenticate": 'Bearer realm="headgate"'}


def test_a_key_at_its_limit_is_told_when_to_come_back():
    error = RateLimited("x", reason="request_limit", retry_after=0.0401)
    assert fields(error) == {"Retry-After": "1", "retry-after-ms": "41"}
    assert msgspec.json.decode(errors.error_json(error))["error"]["type"] == "requests"


def test_errors_without_a_better_time_say_none():
    assert fields(InvalidRequest("x")) == {}
    assert fields(Cancelled("x", reason="shutdown")) == {}


def test_a_wrong_method_is_told_the_right_ones():
    assert fields(WrongMethod("x", allowed=["GET", "HEAD"])) == {"Allow": "GET, HEAD"}


def test_a_refusal_as_bytes_is_a_whole_answer_that_closes():
    head, _, body = refusal_bytes(SlowClient("too slow")).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == "HTTP/1.1 408 Request Timeout"
    assert headers["Connection"] == "close"
    assert int(headers["Content-Length"]) == len(body)
    assert msgspec.json.decode(body, type=errors.ErrorBody).error.code == "request_timeout"
