"""Which addresses may be called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.outside.hosts import AllowedHosts
from pipeline.workflow.errors import StepFailed

HOSTS = AllowedHosts(["api.example.org", "*.inner.example.org", "127.0.0.1:8080", "[::1]:80", "Upper.Example"])


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.org/x?y=1",
        "https://API.Example.org./",
        "https://api.example.org:8443/",
        "http://a.inner.example.org/",
        "http://a.b.inner.example.org/",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]:80/",
        "http://upper.example/",
    ],
)
def test_allowed(url: str):
    assert HOSTS.checked(url).scheme in {"http", "https"}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://inner.example.org/",
        "http://evilinner.example.org/",
        "http://api.example.org.evil.test/",
        "http://127.0.0.1/",
        "http://127.0.0.1:8081/",
        "http://127.1:8080/",
        "http://2130706433:8080/",
        "http://0x7f000001:8080/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://[::1]:81/",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://evil.test/#api.example.org",
        "http://evil.test\\.api.example.org/",
    ],
)
def test_not_allowed(url: str):
    with pytest.raises(StepFailed) as caught:
        HOSTS.checked(url)
    assert caught.value.kind in {"not_allowed", "invalid_input"}
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://api.example.org/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("//api.example.org/", "http://"),
        ("api.example.org", "http://"),
        ("http://", "http://"),
        ("", "http://"),
        ("http://user@api.example.org/", "user and password"),
        ("http://user:word@api.example.org/", "user and password"),
        ("http://evil.test@api.example.org/", "user and password"),
        ("http://:@api.example.org/", "user and password"),
        ("http://api.example.org/a b", "no spaces"),
        ("http://api.example.org/\r\nX: 1", "control characters"),
        ("http://api.example.org:99999/", "not an address"),
        ("http://api.example.org:x/", "not an address"),
        ("http://[::1/", "not an address"),
    ],
)
def test_what_is_no_address(url: str, message: str):
    with pytest.raises(StepFailed, match=message) as caught:
        HOSTS.checked(url)
    assert (caught.value.kind, caught.value.details["field"]) == ("invalid_input", "url")


def test_nothing_is_allowed_by_itself():
    with pytest.raises(StepFailed, match=r"workflows\.hosts") as caught:
        AllowedHosts([]).checked("http://127.0.0.1/")
    assert caught.value.kind == "not_allowed"


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda rest: f"http://{rest}"))
def test_any_text_is_an_allowed_address_or_refused(text: str):
    try:
        url = HOSTS.checked(text)
    except StepFailed:
        return
    assert HOSTS.allows(url.raw_host or "", url.port)
