import re
from hashlib import sha256

import pytest

from pipeline.core.access import ANONYMOUS, Caller
from pipeline.core.errors import InvalidRequest, Unauthorized
from pipeline.core.outcomes import Priority
from pipeline.policy.access import Access, KnownKey, key_digest, key_hash, known_key
from pipeline.policy.limits import OwnPlaces, TokenBucket, per_minute

KEY = "hg_" + "k" * 43
OTHER = "hg_" + "o" * 43
REVOKED = "hg_" + "r" * 43
HOLDER = Caller("holder", Priority.HIGH)
KEYS = [KnownKey(key_digest(KEY), HOLDER), KnownKey(key_digest(REVOKED), Caller("gone"), revoked=True)]
MALFORMED = ["", " ", "a b", "schlüssel", "\udcff", f"{KEY}\n", f" {KEY}", "k" * 513, "k" * 16_000_000, "\x00"]


def refusal(access: Access, presented: str | None) -> Unauthorized:
    with pytest.raises(Unauthorized) as raised:
        access.caller(presented)
    return raised.value


def test_a_key_is_its_holders():
    assert Access(KEYS, None).caller(KEY) is HOLDER


@pytest.mark.parametrize("anonymous", [None, ANONYMOUS])
@pytest.mark.parametrize("presented", [OTHER, KEY[:-1], KEY + "k", KEY.upper(), "k" * 512, key_hash(KEY), *MALFORMED])
def test_what_is_presented_must_be_known_even_where_no_key_is_needed(presented, anonymous):
    error = refusal(Access(KEYS, anonymous), presented)
    assert (error.status, error.code, error.reason, error.place) == (401, "invalid_api_key", "unauthorized", "ingress")
    assert presented.strip() == "" or presented not in error.message


def test_a_revoked_key_is_told_so():
    assert "revoked" in refusal(Access(KEYS, ANONYMOUS), REVOKED).message


def test_without_a_key_only_where_that_is_allowed():
    assert Access(KEYS, ANONYMOUS).caller(None) is ANONYMOUS
    assert "Authorization: Bearer KEY" in refusal(Access(KEYS, None), None).message


@pytest.mark.parametrize("presented", [None, KEY, *MALFORMED])
def test_while_there_are_no_keys_nobody_looks_at_what_is_sent(presented):
    assert Access([], ANONYMOUS).caller(presented) is ANONYMOUS


def test_what_cannot_be_a_key_is_not_hashed(monkeypatch):
    monkeypatch.setattr("pipeline.policy.access.sha256", None)
    for presented in MALFORMED:
        refusal(Access(KEYS, None), presented)


def test_known_and_unknown_keys_are_compared_alike(monkeypatch):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("pipeline.policy.access.hmac.compare_digest", compare)
    access = Access(KEYS, None)
    access.caller(KEY)
    refusal(access, OTHER)
    refusal(access, REVOKED)
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    ("own", "asked", "given"),
    [
        (Priority.NORMAL, None, Priority.NORMAL),
        (Priority.NORMAL, "low", Priority.LOW),
        (Priority.NORMAL, "normal", Priority.NORMAL),
        (Priority.NORMAL, "high", Priority.NORMAL),
        (Priority.LOW, "critical", Priority.LOW),
        (Priority.CRITICAL, "critical", Priority.CRITICAL),
        (Priority.CRITICAL, "high", Priority.HIGH),
    ],
)
def test_a_request_may_lower_its_class_and_never_raise_it(own, asked, given):
    assert Access([], None).lowered(Caller("x", own), asked) is given


@pytest.mark.parametrize("asked", ["", "0", "-1", "LOW", "low ", "urgent", "low, low", "niedrig\udcff", "9" * 10_000])
def test_a_class_that_there_is_not_is_refused(asked):
    with pytest.raises(InvalidRequest) as raised:
        Access([], None).lowered(ANONYMOUS, asked)
    assert raised.value.param == "X-Headgate-Class"
    assert "critical, high, normal, low" in raised.value.message
    assert len(raised.value.message) < 300


def test_a_hash_is_the_sha256_of_the_whole_key():
    assert key_hash(KEY) == "sha256:" + sha256(KEY.encode()).hexdigest()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", key_hash(KEY))


def configured(**terms: object) -> KnownKey:
    usual = {
        "class_name": "normal",
        "routes": [],
        "weight": 1.0,
        "requests": None,
        "tokens": None,
        "places": None,
        "revoked": False,
    }
    return known_key("app", key_hash(KEY), **{**usual, **terms})


def test_a_key_as_it_is_configured():
    key = configured(
        class_name="critical", routes=["docs", "echo"], weight=2.5, requests=TokenBucket(*per_minute(60), 0.0)
    )
    caller = Access([key], None).caller(KEY)
    assert (caller.name, caller.priority, caller.weight) == ("app", Priority.CRITICAL, 2.5)
    assert caller.routes == {"docs", "echo"}
    assert caller.quota is not None
    assert "x-ratelimit-limit-requests: 60" in caller.quota.fields(0.0)


def test_without_routes_it_may_use_all_and_without_limits_it_has_none():
    caller = configured().caller
    assert caller.routes is None
    assert caller.quota is None
    assert configured(revoked=True).revoked


@pytest.mark.parametrize("limit", ["requests", "tokens", "places"])
def test_any_one_limit_makes_a_quota(limit):
    given = OwnPlaces(100) if limit == "places" else TokenBucket(*per_minute(100), 0.0)
    quota = configured(**{limit: given}).caller.quota
    assert quota is not None
    assert quota.counts_tokens is (limit == "tokens")


def test_no_key_is_in_what_is_printed_of_it():
    key = configured()
    assert KEY not in repr((key, Access([key], None), vars(Access([key], None))))
