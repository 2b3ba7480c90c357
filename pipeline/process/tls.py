"""Certificates: read and checked whole, carried from the supervisor to the shards, exchanged while listeners are open.

All processes use what the supervisor has read and found to fit. A shard that starts later, while somebody is halfway
through exchanging the files, must not fail for it, nor speak with another certificate than the others.
"""

import base64
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from config.crosscheck import MAX_PEM_BYTES
from config.errors import ConfigError, Problem, Unreadable
from config.files import read_text
from config.load import self_contained
from config.schema import AdminSection, Config, ServerSection

_CARRIED = "carried:"  # before contents that stand where a file's name would
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
_KEY = "PRIVATE KEY-----"
_ENCRYPTED = "ENCRYPTED"  # "BEGIN ENCRYPTED PRIVATE KEY" (RFC 7468, 11), or "Proc-Type: 4,ENCRYPTED" (RFC 1421)
_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}  # the last: of another kind
_OF_CERTIFICATES = ("ee ", "ca ")  # "ee key too small", "ca md too weak"
_UTC_TIME = 0x17  # tags of ASN.1
_VERSION = 0xA0

log = structlog.get_logger()


class Pair(NamedTuple):
    """A certificate with its chain, and its private key, both in PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Pair(…)"  # the key belongs in no log


class Tls:
    """The TLS of one listener, whose certificate can be exchanged while it is open.

    `context` is what the listener is given. Each handshake takes the certificate that is in use when it begins, also
    from clients that name no host; connections that are open are not touched. (Loading another pair into the same
    context would keep the old one beside it where their keys are of different kinds.) Raises ConfigError.
    """

    def __init__(self, pair: Pair, section: str = "server") -> None:
        self._section = section
        self._current = self.prepare(pair)
        self.context = self.prepare(pair)
        self.context.sni_callback = self._switch

    def prepare(self, pair: Pair) -> ssl.SSLContext:
        """Changes nothing yet. Raises ConfigError."""
        problems: list[Problem] = []
        context = _context(pair, self._section, problems)
        if problems:
            raise ConfigError(problems)
        return context

    def use(self, prepared: ssl.SSLContext) -> None:
        """For all handshakes that begin from now on."""
        self._current = prepared

    def _switch(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def carried(config: Config) -> Config:
    """The configuration with the contents of templates and certificates in place of the names of their files, so that
    a process that starts later runs what was checked. Raises ConfigError with all that is wrong with them."""
    problems: list[Problem] = []
    try:
        config = self_contained(config)
    except ConfigError as error:
        problems += error.problems
    server = _contents(config.server, "server", problems)
    admin = _contents(config.admin, "admin", problems)
    if problems:
        raise ConfigError(problems)
    return replace(
        config,
        server=replace(config.server, tls_certificate=server[0], tls_key=server[1]),
        admin=replace(config.admin, tls_certificate=admin[0], tls_key=admin[1]),
    )


def pair_of(section: ServerSection | AdminSection) -> Pair | None:
    """What `carried` has put there; None where there is no TLS."""
    if section.tls_certificate is None or section.tls_key is None:
        return None
    return Pair(_unpacked(section.tls_certificate), _unpacked(section.tls_key))


def warn_of_validity(config: Config, now: datetime | None = None) -> None:
    """Says so in the log where a certificate of a `carried` configuration is not valid yet, or no longer. It is used
    all the same: clients decide what they take, and a machine's clock may be wrong."""
    now = now or datetime.now(UTC)
    for name, section in (("server", config.server), ("admin", config.admin)):
        if (pair := pair_of(section)) is not None:
            since, until = validity(pair.certificate)
            if not since <= now <= until:
                dates = {"since": since.isoformat(), "until": until.isoformat()}
                log.warning("certificate_not_valid", key=f"{name}.tls_certificate", **dates)


def validity(certificate: str) -> tuple[datetime, datetime]:
    """From when and until when the first certificate is valid (RFC 5280, 4.1). For one that OpenSSL has taken."""
    (_, whole), *_ = _elements(ssl.PEM_cert_to_DER_cert(_first(certificate)))
    (_, signed), *_ = _elements(whole)
    parts = [content for tag, content in _elements(signed) if tag != _VERSION]
    since, until = [_time(tag, content.decode()) for tag, content in _elements(parts[3])]
    return since, until


def _first(certificate: str) -> str:
    end = "-----END CERTIFICATE-----"
    return certificate[certificate.index(_CERTIFICATE) : certificate.index(end) + len(end)]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one behind the other (X.690, 8.1)."""
    at = 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(der[at : at + octets]), at + octets
        yield tag, der[at : at + size]
        at += size


def _time(tag: int, text: str) -> datetime:
    """UTCTime has two digits of the year: from 50 on they are of the last century (RFC 5280, 4.1.2.5.1)."""
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _contents(
    section: ServerSection | AdminSection, name: str, problems: list[Problem]
) -> tuple[str, str] | tuple[None, None]:
    """Both files, packed, if they fit together."""
    if section.tls_certificate is None or section.tls_key is None:
        return None, None
    texts: dict[str, str] = {}
    for key, file in (("tls_certificate", section.tls_certificate), ("tls_key", section.tls_key)):
        try:
            texts[key] = _unpacked(file) if file.startswith(_CARRIED) else read_text(Path(file), MAX_PEM_BYTES)
        except Unreadable as unreadable:
            problems.append(Problem(f"{name}.{key}", f"{file}: {unreadable.found}", unreadable.expected))
    if len(texts) < len(Pair._fields):
        return None, None
    pair = Pair(texts["tls_certificate"], texts["tls_key"])
    _context(pair, name, problems)
    return _packed(pair.certificate), _packed(pair.key)


def _packed(text: str) -> str:
    """As the name of a file may look: on one line."""
    return _CARRIED + base64.b64encode(text.encode()).decode()


def _unpacked(text: str) -> str:
    return base64.b64decode(text.removeprefix(_CARRIED)).decode()


def _context(pair: Pair, section: str, problems: list[Problem]) -> ssl.SSLContext:
    """A server's, with the pair in it; useless where it has added to `problems`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    certificate_key, key_key = f"{section}.tls_certificate", f"{section}.tls_key"
    if _CERTIFICATE not in pair.certificate:
        problems.append(Problem(certificate_key, "a file without a certificate", "a certificate in PEM"))
    elif _KEY not in pair.key:
        problems.append(Problem(key_key, "a file without a private key", "a private key in PEM"))
    elif _ENCRYPTED in pair.key:
        expected = "one without a passphrase, which nobody is there to enter (`openssl pkey` writes it)"
        problems.append(Problem(key_key, "an encrypted private key", expected))
    else:
        try:
            _load(context, pair)
        except ssl.SSLError as error:
            problems.append(_fault(error, pair, certificate_key, key_key))
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """Raises ssl.SSLError. The module takes no contents, only files; these are in no folder and on no disk."""
    with _in_memory(pair.certificate) as certificate, _in_memory(pair.key) as key:
        context.load_cert_chain(certificate, key, password=lambda: "")  # never to be asked for at a terminal


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    descriptor = os.memfd_create("headgate-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _fault(error: ssl.SSLError, pair: Pair, certificate_key: str, key_key: str) -> Problem:
    if error.reason in _MISMATCHES:
        return Problem(key_key, "a key that does not match the certificate", f"the private key of {certificate_key}")
    reason = (error.reason or "it cannot be read").replace("_", " ").lower()
    found = f"something that OpenSSL does not take: {reason}"
    if reason.startswith(_OF_CERTIFICATES) or not _readable(pair.certificate):
        return Problem(certificate_key, found, "a certificate in PEM, as strong as is usual today")
    return Problem(key_key, found, "a private key in PEM")


def _readable(certificate: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_first(certificate))
    except (ValueError, ssl.SSLError):
        return False
    return True
