import pytest
from multidict import CIMultiDict

from pipeline.core.errors import InvalidRequest
from pipeline.edge import head
from pipeline.policy.access import is_key


def headers(**fields: str) -> CIMultiDict[str]:
    return CIMultiDict({name.replace("_", "-"): value for name, value in fields.items()})


def fresh() -> str:
    return "fresh"


@pytest.mark.parametrize("given", ["a", "req-1/2:3", "!~", "x" * 128])
def test_a_request_id_of_visible_ascii_is_taken(given):
    assert head.request_id(headers(X_Request_Id=given), fresh) == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "naïve", "\udcff", "a\n"])
def test_any_other_request_id_is_replaced(given):
    assert head.request_id(headers(X_Request_Id=given), fresh) == "fresh"


def test_request_ids_differ_within_and_between_sources():
    first, second = head.request_ids(), head.request_ids()
    ids = [first(), first(), second(), second()]
    assert len(set(ids)) == 4
    assert all(head.request_id(headers(X_Request_Id=drawn), fresh) == drawn for drawn in ids)


def test_a_trace_context_is_handed_on_only_if_it_is_one():
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert head.traceparent(headers(traceparent=good)) == good
    assert head.traceparent(headers(traceparent=good.upper())) is None
    assert head.traceparent(headers(traceparent=good + "\n")) is None
    assert head.traceparent(headers()) is None


@pytest.mark.parametrize("given", ["s-1", "user 42/conversation 7", "x" * 256])
def test_a_session_id_is_printable_ascii(given):
    assert head.session_id(headers(X_Session_Id=given)) == given


def test_an_empty_session_id_is_none():
    assert head.session_id(headers(X_Session_Id="")) is None
    assert head.session_id(headers()) is None


@pytest.mark.parametrize("given", ["x" * 257, "a\x00b", "a\tb", "\udcff", "sé"])
def test_a_session_id_that_is_too_long_or_has_other_characters_is_refused(given):
    with pytest.raises(InvalidRequest) as refused:
        head.session_id(headers(X_Session_Id=given))
    assert refused.value.param == "X-Session-Id"


def test_the_timeout_is_in_milliseconds():
    assert head.timeout(headers(X_Request_Timeout_Ms="1500")) == 1.5
    assert head.timeout(headers()) is None


NO_TIMEOUTS = [
    "0",
    "-1",
    "1.5",
    "soon",
    "",
    " ",
    "1e3",
    "86400001",
    "9" * 5000,
    "١٢",
    "²",
    "NaN",
    "+5",
    "0x10",
    "1_000",
]


@pytest.mark.parametrize("given", [*NO_TIMEOUTS, " 5", "5 ", "5,5", "\udcff"])
def test_a_timeout_that_is_no_positive_number_is_refused(given):
    with pytest.raises(InvalidRequest) as refused:
        head.timeout(headers(X_Request_Timeout_Ms=given))
    assert refused.value.param == "X-Request-Timeout-Ms"
    assert len(refused.value.message) < 200


def test_a_timeout_that_comes_twice_is_refused():
    twice = headers(X_Request_Timeout_Ms="5")
    twice.add("x-request-timeout-ms", "5")
    with pytest.raises(InvalidRequest) as refused:
        head.timeout(twice)
    assert "'5, 5'" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, None),
        ({"Authorization": "Bearer hg_1"}, "hg_1"),
        ({"authorization": "bearer   hg_1"}, "hg_1"),
        ({"x_api_key": "hg_1"}, "hg_1"),
        ({"Authorization": "Bearer hg_1", "x_api_key": "hg_2"}, "hg_1"),
        ({"Authorization": "Bearer a b"}, "a b"),
        ({"Authorization": "Bearer \udcff"}, "\udcff"),
        ({"Authorization": "Bearer "}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": ""}, ""),
        ({"Authorization": "hg_1"}, ""),
        ({"Authorization": "Basic aGdfMQ==", "x_api_key": "hg_1"}, ""),
    ],
)
def test_a_key_is_what_comes_as_one(fields, key):
    assert head.presented_key(headers(**fields)) == key


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_a_key_that_comes_twice_is_none(name):
    value = "Bearer hg_1" if name == "Authorization" else "hg_1"
    twice = CIMultiDict([(name, value), (name.title(), value)])
    assert not is_key(head.presented_key(twice) or "")


def test_a_class_is_handed_on_as_it_comes():
    assert head.asked_class(headers()) is None
    assert head.asked_class(headers(X_Headgate_Class="low")) == "low"
    twice = headers(X_Headgate_Class="low")
    twice.add("X-Headgate-Class", "low")
    assert head.asked_class(twice) == "low, low"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("600", 600.0), ("0.5", 0.5), ("None", None), ("nan", None), ("inf", None), ("-1", None), ("0", None), ("", None)],
)
def test_the_official_clients_read_timeout_limits_gaps_and_nonsense_is_ignored(given, seconds):
    assert head.gap_limit(headers(x_stainless_read_timeout=given)) == seconds
