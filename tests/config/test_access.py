import msgspec
import pytest

from config.access import anonymous_allowed, is_loopback
from config.schema import Config

KEY = {"name": "app", "hash": "sha256:" + "a" * 64}


def config(**server: object) -> Config:
    keys = server.pop("keys", [])
    sections = {"workers": [{"kind": "echo", "name": "w"}], "routes": [{"name": "r", "worker": "w"}]}
    return msgspec.convert({"server": server, "keys": keys, **sections}, Config)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LocalHost", "::1%lo"])
def test_what_only_this_machine_reaches(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0", "localhost.example", "127.0.0.1.example"]
)
def test_what_others_may_reach(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("server", "allowed"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"keys": [KEY]}, False),
        ({"keys": [KEY], "anonymous": True}, True),
        ({"host": "0.0.0.0", "anonymous": True}, True),
        ({"anonymous": False}, False),
    ],
)
def test_requests_without_a_key(server, allowed):
    assert anonymous_allowed(config(**server)) is allowed
