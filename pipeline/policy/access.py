"""Who asks: from what a client presents to the holder of a key.

A key is `hg_` and 32 random bytes in URL-safe base64; configurations hold its SHA-256 only. Nobody guesses 256 random
bits, so that a fast hash protects them as well as a slow one would, and costs the door about a microsecond.
"""

import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from pipeline.core.access import Caller
from pipeline.core.errors import InvalidRequest, Unauthorized
from pipeline.core.outcomes import Priority
from pipeline.policy.limits import Bucket, KeyQuota, Places

KEY_PREFIX = "hg_"
HASH_PREFIX = "sha256:"
KEY_MAX_CHARS = 512
CLASSES = {priority.label: priority for priority in Priority}

is_key = re.compile(rf"[!-~]{{1,{KEY_MAX_CHARS}}}").fullmatch
_NOBODYS = bytes(32)  # what an unknown key is compared with


class KnownKey(msgspec.Struct, frozen=True, eq=False):
    """`digest` is the SHA-256 of the whole key, `caller` who holds it."""

    digest: bytes
    caller: Caller
    revoked: bool = False


class Access:
    """Finds callers by their keys. `anonymous` is who asks without one, None where nobody may.

    Without any keys, what clients present is not looked at: the official ones always send something.
    """

    def __init__(self, keys: Sequence[KnownKey], anonymous: Caller | None) -> None:
        self._keys = {key.digest: key for key in keys}
        self._named = {key.caller.name: key for key in keys}
        self._anonymous = anonymous

    def caller(self, presented: str | None) -> Caller:
        """Raises `Unauthorized`. A key that is presented must be known, also where none is needed: its holder would
        take another's limits and class for its own."""
        if presented is None or not self._keys:
            if self._anonymous is None:
                raise Unauthorized("No API key was sent; send 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
            return self._anonymous
        if not is_key(presented):
            raise Unauthorized("The Authorization header holds no API key; send 'Authorization: Bearer KEY'")
        digest = key_digest(presented)
        key = self._keys.get(digest)
        known = hmac.compare_digest(digest, _NOBODYS if key is None else key.digest)
        if key is None or not known:
            raise Unauthorized("The API key is not known here")
        if key.revoked:
            raise Unauthorized("The API key has been revoked")
        return key.caller

    def named(self, name: str) -> Caller:
        """The caller whom another shard has recognised. Raises `Unauthorized`: here another configuration may be in
        force for a moment."""
        if self._anonymous is not None and name == self._anonymous.name:
            return self._anonymous
        key = self._named.get(name)
        if key is None or key.revoked:
            raise Unauthorized("The API key is not known here")
        return key.caller

    def lowered(self, caller: Caller, asked: str | None) -> Priority:
        """The class of a request whose client asked for one: never above its caller's. Raises `InvalidRequest`."""
        if asked is None:
            return caller.priority
        priority = CLASSES.get(asked)
        if priority is None:
            raise InvalidRequest(
                f"Invalid header X-Headgate-Class: expected one of {', '.join(CLASSES)}, got {asked[:40]!r}",
                param="X-Headgate-Class",
            )
        return max(priority, caller.priority)


def key_digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def key_hash(key: str) -> str:
    """As configurations write it: `sha256:` and 64 hexadecimal digits."""
    return HASH_PREFIX + key_digest(key).hex()


def known_key(
    name: str,
    hashed: str,
    *,
    class_name: str,
    routes: Iterable[str],
    weight: float,
    requests: Bucket | None,
    tokens: Bucket | None,
    places: Places | None,
    revoked: bool,
) -> KnownKey:
    """A key as it is configured: `hashed` as `key_hash` makes it, no `routes` for all of them; what its limits are
    taken from, None where there are none."""
    unlimited = requests is None and tokens is None and places is None
    quota = None if unlimited else KeyQuota(requests, tokens, places)
    caller = Caller(name, CLASSES[class_name], frozenset(routes) or None, weight, quota)
    return KnownKey(bytes.fromhex(hashed.removeprefix(HASH_PREFIX)), caller, revoked)
