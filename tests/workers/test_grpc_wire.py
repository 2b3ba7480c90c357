import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.helpers import ask
from workers import worker_pb2 as pb
from workers.base import (
    ChatMessage,
    Delta,
    DeltaBatch,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Health,
    Parameters,
    Passage,
    Usage,
)
from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_wire import (
    MAX_MESSAGE,
    batch_to,
    batches_from,
    count_from,
    count_to,
    description_from,
    description_to,
    embed_from,
    embed_to,
    error_from,
    failure_to,
    health_from,
    request_from,
    request_to,
    vectors_from,
    vectors_to,
)

ROOT = Path(__file__).parents[2]
Kind = WorkerErrorKind
_text = st.text(max_size=8).map(lambda text: text.encode(errors="replace").decode())
_requests = st.builds(
    GenerationRequest,
    _text,
    st.none() | _text.filter(bool),
    _text,
    st.lists(st.builds(ChatMessage, st.sampled_from(["system", "user", "tool"]), _text, st.binary()), max_size=3).map(
        tuple
    ),
    st.builds(
        Parameters,
        st.none() | st.integers(0, 1 << 40),
        st.none() | st.floats(0, 2),
        st.none() | st.floats(0, 1),
        st.lists(_text, max_size=2).map(tuple),
        st.integers(1, 8),
        st.none() | st.integers(-(1 << 60), 1 << 60),
    ),
    st.booleans(),
    st.lists(st.builds(Passage, _text, _text, st.integers(0, 99), st.floats(0, 1), _text), max_size=2).map(tuple),
)


def plain(value):
    return msgspec.to_builtins(value)


@given(_requests)
def test_a_request_comes_out_as_it_went_in(request):
    assert plain(request_from(pb.GenerateRequest.FromString(request_to(request, None)))) == plain(request)


def test_the_body_goes_along_without_messages_and_with_what_was_changed_here():
    body = {"model": "route", "messages": [{"role": "user", "content": "x"}], "tools": [1], "max_tokens": 500}
    request = ask(body=body, rewritten=True, shortened=True, max_tokens=40)
    sent = request_from(pb.GenerateRequest.FromString(request_to(request, "real")))
    assert sent.model == "real"
    assert msgspec.json.decode(sent.body) == {"model": "real", "tools": [1], "max_tokens": 40, "stream": True}
    assert [message.text for message in sent.messages] == ["hello there you"]


@pytest.mark.parametrize("parameters", [{"seed": 1 << 70}, {"max_tokens": 1 << 70}, {"n": -1}, {"stop": ("\ud800",)}])
def test_numbers_and_texts_without_a_place_are_the_request_s_fault(parameters):
    with pytest.raises(WorkerError) as raised:
        request_to(ask(**parameters), None)
    assert raised.value.kind is Kind.BAD_REQUEST


def test_a_body_that_is_not_json_is_the_request_s_fault():
    with pytest.raises(WorkerError) as raised:
        request_to(ask(body=b"{"), None)
    assert raised.value.kind is Kind.BAD_REQUEST


def test_what_is_too_much_is_not_sent():
    with pytest.raises(WorkerError) as raised:
        request_to(ask("x" * (MAX_MESSAGE + 1)), None)
    assert raised.value.kind is Kind.BAD_REQUEST
    with pytest.raises(WorkerError) as raised:
        batch_to(DeltaBatch((Delta("x" * (MAX_MESSAGE + 1)),)))
    assert raised.value.kind is Kind.PROTOCOL


_batches = st.builds(
    DeltaBatch,
    st.lists(st.builds(Delta, _text, st.integers(0, 9), st.none() | _text, st.binary(max_size=9)), max_size=3).map(
        tuple
    ),
    st.none() | st.builds(Usage, *[st.integers(0, 1 << 40)] * 2, st.just(b""), *[st.integers(0, 99)] * 2),
    st.binary(max_size=9),
)


@given(_batches)
def test_a_batch_comes_out_as_it_went_in(batch):
    (one,) = batches_from(batch_to(batch))
    assert plain(one) == plain(batch)


@pytest.mark.parametrize("number", [255, 256, 257, 1000])
def test_a_batch_of_many_deltas_comes_in_parts(number):
    deltas = tuple([Delta(str(place)) for place in range(number)])
    parts = list(batches_from(batch_to(DeltaBatch(deltas, Usage(1 << 40, 20_000_000), b"{}"))))
    assert [delta.text for part in parts for delta in part.deltas] == [delta.text for delta in deltas]
    assert max(len(part.deltas) for part in parts) <= 256
    assert all(part.usage is None and not part.body for part in parts[:-1])
    assert parts[-1].usage is not None
    assert (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens) == (1 << 40, 20_000_000)
    assert parts[-1].body == b"{}"


def test_embeddings_come_out_as_they_went_in():
    request = EmbeddingRequest("r", "m", ("a", (1, 2), ""), 8, "query")
    assert plain(embed_from(pb.EmbedRequest.FromString(embed_to(request, None)))) == plain(request)
    assert vectors_from(vectors_to(Embeddings(((0.5, -2.0),), Usage(3, 0)))).vectors == ((0.5, -2.0),)
    assert vectors_from(vectors_to(Embeddings(((0.5, -2.0),), Usage(3, 0)))).usage == Usage(3, 0)


def test_counts_and_descriptions_come_out_as_they_went_in():
    assert [count_from(count_to(count)) for count in (None, 0, 7)] == [None, 0, 7]
    assert description_from(description_to(Health(ok=True, slots=4))) == Health(ok=True, slots=4)
    assert description_from(b"") == Health(ok=True)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_message_are_told_as_such(data):
    for read in (batches_from, vectors_from, count_from, description_from, health_from):
        try:
            read(data)
        except WorkerError as error:
            assert error.kind is Kind.PROTOCOL  # noqa: PT017 - not every byte string is wrong
    error_from(StatusCode.INTERNAL, "x", data)


def test_health():
    assert health_from(b"\x08\x01").ok
    assert not health_from(b"\x08\x02").ok
    assert "NOT_SERVING" in health_from(b"\x08\x02").detail
    assert not health_from(b"").ok
    assert "77" in health_from(b"\x08\x4d").detail


# Errors.

BY_CODE = {
    StatusCode.CANCELLED: (Kind.UNAVAILABLE, True),
    StatusCode.UNKNOWN: (Kind.UNAVAILABLE, True),
    StatusCode.INVALID_ARGUMENT: (Kind.BAD_REQUEST, False),
    StatusCode.DEADLINE_EXCEEDED: (Kind.TIMEOUT, True),
    StatusCode.NOT_FOUND: (Kind.BAD_REQUEST, False),
    StatusCode.ALREADY_EXISTS: (Kind.BAD_REQUEST, False),
    StatusCode.PERMISSION_DENIED: (Kind.AUTH, False),
    StatusCode.UNAUTHENTICATED: (Kind.AUTH, False),
    StatusCode.RESOURCE_EXHAUSTED: (Kind.RATE_LIMITED, True),
    StatusCode.FAILED_PRECONDITION: (Kind.UNAVAILABLE, False),
    StatusCode.ABORTED: (Kind.UNAVAILABLE, True),
    StatusCode.UNIMPLEMENTED: (Kind.PROTOCOL, False),
    StatusCode.OUT_OF_RANGE: (Kind.BAD_REQUEST, False),
    StatusCode.INTERNAL: (Kind.UNAVAILABLE, True),
    StatusCode.UNAVAILABLE: (Kind.UNAVAILABLE, True),
    StatusCode.DATA_LOSS: (Kind.UNAVAILABLE, True),
}


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_every_status_code_has_its_kind(code):
    error = error_from(code, "words of\nthe backend sk-secret-99", None, ["sk-secret-99"])
    assert (error.kind, error.retryable) == BY_CODE[code]
    assert "secret" not in error.message.replace("[secret]", "")
    assert ("words of the backend [secret]" in error.message) == (error.kind is not Kind.AUTH)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_failure_keeps_what_was_said_of_it(kind):
    retryable = not kind.of_request
    before = WorkerError(kind, "too\nmuch", retryable=retryable, retry_after=2.5)
    after = error_from(*failure_to(before))
    assert (after.kind, after.retryable, after.retry_after) == (kind, retryable, 2.5)
    assert ("too much" in after.message) == (kind is not Kind.AUTH)
    without = error_from(*failure_to(before)[:2], None)
    assert without.retryable == retryable or kind in (Kind.AUTH, Kind.PROTOCOL)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (pb.Failure(kind="of tomorrow", message="x", retryable=True).SerializeToString(), Kind.UNAVAILABLE),
        (pb.Failure().SerializeToString(), Kind.UNAVAILABLE),
        (b"\xff\xff", Kind.TIMEOUT),  # by its code, then
        (None, Kind.TIMEOUT),
    ],
)
def test_a_failure_of_another_version(failure, kind):
    assert error_from(StatusCode.DEADLINE_EXCEEDED, "x", failure).kind is kind


@pytest.mark.parametrize("wait", [float("nan"), float("inf"), -5.0, 1e12])
def test_a_wish_that_makes_no_sense(wait):
    failure = pb.Failure(kind="overloaded", retry_after=wait).SerializeToString()
    got = error_from(StatusCode.UNAVAILABLE, "", failure).retry_after
    assert got is None or 0 <= got <= 86_400


def test_a_request_that_is_at_fault_is_not_tried_again_whatever_its_backend_says():
    failure = pb.Failure(kind="bad_request", retryable=True).SerializeToString()
    assert not error_from(StatusCode.UNAVAILABLE, "", failure).retryable


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (
            StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; last error: ipv4:10.0.0.1:5: x",
            Kind.UNREACHABLE,
        ),
        (StatusCode.UNAVAILABLE, "errors resolving hidden.host:1: [x]", Kind.UNREACHABLE),
        (StatusCode.UNAVAILABLE, "ipv4:10.0.0.1:5: Socket closed", Kind.RESET),
        (StatusCode.UNAVAILABLE, "GOAWAY received from 10.0.0.1", Kind.RESET),
        (StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5 vs. 4)", Kind.PROTOCOL),
        (StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (5 vs. 4)", Kind.BAD_REQUEST),
    ],
)
def test_what_grpc_itself_says_of_the_way(code, words, kind):
    error = error_from(code, words, None)
    assert error.kind is kind
    assert "10.0.0.1" not in error.message
    assert "hidden" not in error.message


def test_long_words_are_cut():
    assert len(error_from(StatusCode.UNKNOWN, "x" * 10_000, None).message) < 600


# The generated code.


@pytest.mark.slow
def test_the_generated_code_is_that_of_the_protocol(tmp_path):
    command = ["-m", "grpc_tools.protoc", f"-I{ROOT}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([sys.executable, *command, "workers/worker.proto"], check=True, cwd=ROOT)
    for name in ("worker_pb2.py", "worker_pb2.pyi"):
        made, kept = tmp_path / "workers" / name, ROOT / "workers" / name
        assert made.read_text() == kept.read_text(), f"{name}: run python {' '.join(command[:2])}"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["grpc", "google.protobuf", "grpc_health"])
def test_without_the_packages_a_worker_says_what_to_install(missing):
    program = f"""
import sys
sys.modules[{missing!r}] = None
from tests.workers.helpers import section
from workers import registry
from workers.errors import WorkerUnavailable
try:
    registry.build(section("grpc", target="127.0.0.1:1"), resolve=str)
except WorkerUnavailable as why:
    print(why.key, why.expected)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "kind pip install 'headgate[grpc]'\n"
