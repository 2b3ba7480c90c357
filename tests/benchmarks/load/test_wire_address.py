import pytest

from benchmarks.load.wire import BadHeader, BadUrl
from benchmarks.load.wire_address import Address, address, request_head


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", ("127.0.0.1", 8000, False, "127.0.0.1:8000", "/v1/chat/completions")),
        ("http://h/v1/", ("h", 80, False, "h", "/v1/chat/completions")),
        ("http://h", ("h", 80, False, "h", "/chat/completions")),
        ("HTTP://Example.COM:80/a%20b/v1", ("example.com", 80, False, "example.com", "/a%20b/v1/chat/completions")),
        ("https://h/v1", ("h", 443, True, "h", "/v1/chat/completions")),
        ("https://h:80/v1", ("h", 80, True, "h:80", "/v1/chat/completions")),
        ("http://[::1]:9/v1", ("::1", 9, False, "[::1]:9", "/v1/chat/completions")),
        ("http://my_service:9/v1", ("my_service", 9, False, "my_service:9", "/v1/chat/completions")),
        (
            "http://bücher.example/v1",
            ("xn--bcher-kva.example", 80, False, "xn--bcher-kva.example", "/v1/chat/completions"),
        ),
    ],
)
def test_base_urls(url: str, expected: tuple[object, ...]):
    assert address(url) == Address(*expected)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "http:// or https://"),
        ("127.0.0.1:8000/v1", "http:// or https://"),
        ("localhost:8000/v1", "http:// or https://"),
        ("ftp://h/v1", "http:// or https://"),
        ("http:///v1", "names no host"),
        ("http://:80/v1", "names no host"),
        ("http://h:99999/v1", "ort out of range"),
        ("http://h:x/v1", "ort could not be cast"),
        ("http://h:0/v1", "port 0"),
        ("http://h /v1", "space or a control character"),
        ("http://h/v1\r\nX: y", "space or a control character"),
        ("http://h/v1?key=a", "query or a fragment"),
        ("http://h/v1?", "query or a fragment"),
        ("http://h/v1#a", "query or a fragment"),
        ("http://h/vé", "percent-encoded"),
        ("http://h/v1/chat/completions", "leave /chat/completions away"),
        ("http://[::g]/v1", "::g"),
        ("http://[::1/v1", "IPv6"),
        ("http://a..b/v1", "host 'a..b'"),
        ("http://" + "a" * 64 + "/v1", "host"),
        ("http://a\\b/v1", "no host name has"),
    ],
)
def test_bad_base_urls(url: str, problem: str):
    with pytest.raises(BadUrl) as caught:
        address(url)
    assert problem in caught.value.problem
    assert str(caught.value) == f"base URL {url!r}: {caught.value.problem}"


def test_credentials_are_not_shown():
    with pytest.raises(BadUrl, match="credentials") as caught:
        address("http://user:secret@h/v1")
    assert "secret" not in str(caught.value)
    assert caught.value.shown == "http://…@h/v1"


def test_given_headers_go_before_our_own():
    lines = request_head(address("http://h/v1"), "k", {"user-agent": "x", "AUTHORIZATION": "y", "Host": "z", "A": ""})
    assert lines.split(b"\r\n") == [
        b"POST /v1/chat/completions HTTP/1.1",
        *(b"Host: z", b"Accept: application/json", b"Content-Type: application/json"),
        *(b"user-agent: x", b"AUTHORIZATION: y", b"A: ", b""),
    ]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("Content-Length", "5", "set by the client itself"),
        ("transfer-encoding", "chunked", "set by the client itself"),
        ("Connection", "close", "set by the client itself"),
        ("X Y", "secret", "no header can have"),
        ("", "secret", "no header can have"),
        ("X", "secret\r\nY: z", "one line of printable ASCII"),
        ("X", "secret\u00e9", "one line of printable ASCII"),
    ],
)
def test_bad_headers(name: str, value: str, problem: str):
    with pytest.raises(BadHeader, match=problem) as caught:
        request_head(address("http://h/v1"), None, {name: value})
    assert caught.value.name == name
    assert "secret" not in str(caught.value)


def test_a_bad_key():
    with pytest.raises(BadHeader, match="Authorization"):
        request_head(address("http://h/v1"), "k\n", {})
