"""Certificates: what is refused and how it is called, what children are handed, how one takes another's place."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import LogCapture

from config.errors import ConfigError, Problem
from config.load import decode, encode, load
from config.schema import Config
from pipeline.process.tls import Pair, Tls, carried, pair_of, validity, warn_of_validity
from tests import certificates
from tests.certificates import Files
from tests.config.helpers import SMALLEST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def first(folder: Path) -> Files:
    return certificates.made(folder, "first")


@pytest.fixture(scope="module")
def second(folder: Path) -> Files:
    return certificates.made(folder, "second")


@pytest.fixture(scope="module")
def rsa(folder: Path) -> Files:
    return certificates.made(folder, "rsa", kind=certificates.RSA)


def configured(files: Files) -> Config:
    file = files.certificate.parent / "pipeline.toml"
    file.write_text(f'[server]\ntls_certificate = "{files.certificate}"\ntls_key = "{files.key}"\n{SMALLEST}')
    return load(file, {}).config


def pair(files: Files) -> Pair:
    return Pair(files.certificate.read_text(), files.key.read_text())


def problem(files: Files) -> Problem:
    with pytest.raises(ConfigError) as refused:
        carried(configured(files))
    (only,) = refused.value.problems
    return only


def spoken(server: ssl.SSLContext, *, host: str | None = "localhost", alpn: list[str] | None = None) -> ssl.SSLObject:
    """The client's side of a handshake, in memory, with a client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(alpn or ["http/1.1"])
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours


def shown(server: ssl.SSLContext, **options: str | None) -> bytes | None:
    return spoken(server, **options).getpeercert(binary_form=True)  # type: ignore[arg-type]


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


def test_what_children_are_handed_does_not_depend_on_the_files(first, tmp_path):
    files = first.to(tmp_path)
    handed = decode(encode(carried(configured(files))))
    for file in files:
        file.unlink()
    assert pair_of(handed.server) == pair(first)
    assert pair_of(handed.admin) is None
    assert carried(handed) == handed


def test_a_key_of_another_certificate_is_refused(first, second, rsa):
    for other in (second, rsa):
        found = problem(Files(first.certificate, other.key))
        assert found.path == "server.tls_key"
        assert "does not match" in found.found


def test_a_file_that_is_no_pem_is_refused(first, tmp_path):
    text = tmp_path / "text"
    text.write_text("hello")
    assert problem(Files(text, first.key)).path == "server.tls_certificate"
    assert problem(Files(first.certificate, text)).path == "server.tls_key"
    assert problem(Files(first.key, first.certificate)).path == "server.tls_certificate"


def test_a_broken_pem_is_refused(first, tmp_path):
    for number, path in enumerate(("server.tls_certificate", "server.tls_key")):
        files = first.to(tmp_path)
        lines = files[number].read_text().splitlines()
        files[number].write_text("\n".join([lines[0], "AAAA", *lines[2:]]))
        assert problem(files).path == path


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_the_passphrase(first, tmp_path):
    found = problem(certificates.encrypted(first, tmp_path / "key"))
    assert (found.path, found.found) == ("server.tls_key", "an encrypted private key")
    assert "openssl pkey" in found.expected


def test_a_key_that_is_too_weak_is_the_certificates_problem(folder):
    found = problem(certificates.made(folder, "weak", kind="rsa:512"))
    assert found.path == "server.tls_certificate"
    assert "too small" in found.found


def test_files_that_are_gone_are_all_named(first, tmp_path):
    files = first.to(tmp_path)
    config = configured(files)
    for file in files:
        file.unlink()
    with pytest.raises(ConfigError) as refused:
        carried(config)
    assert [one.path for one in refused.value.problems] == ["server.tls_certificate", "server.tls_key"]


def test_no_secret_is_in_what_is_shown_of_a_pair(first):
    assert "KEY" not in repr(pair(first))


def test_the_dates_of_a_certificate_are_read(first):
    since, until = validity(first.certificate.read_text())
    assert until - since == timedelta(days=2)
    assert abs(since - datetime.now(UTC)) < timedelta(minutes=5)


def test_dates_after_2049_are_read(folder):
    """They are written in another form (RFC 5280, 4.1.2.5)."""
    files = certificates.made(folder, "late")
    names = ["-days", "20000", "-key", str(files.key), "-subj", "/CN=late", "-out", str(files.certificate)]
    certificates._openssl("req", "-x509", "-new", *names)
    since, until = validity(files.certificate.read_text())
    assert until - since == timedelta(days=20000)


def test_an_expired_certificate_is_used_with_a_warning_that_says_since_when(tmp_path):
    files = certificates.expired(tmp_path)
    config = carried(configured(files))
    capture = LogCapture()
    structlog.configure(processors=[capture])
    try:
        warn_of_validity(config)
    finally:
        structlog.reset_defaults()
    (line,) = capture.entries
    assert (line["event"], line["key"]) == ("certificate_not_valid", "server.tls_certificate")
    assert datetime.fromisoformat(line["until"]) < datetime.now(UTC)


def test_one_certificate_takes_the_others_place(first, second, rsa):
    tls = Tls(pair(first))
    for host in ("localhost", None):
        assert shown(tls.context, host=host) == der(first)
    for files in (second, rsa, first):  # also of another kind: the old one must not stay beside it
        tls.use(tls.prepare(pair(files)))
        for host in ("localhost", None):
            assert shown(tls.context, host=host) == der(files)


def test_a_pair_that_does_not_match_changes_nothing(first, second):
    tls = Tls(pair(first))
    with pytest.raises(ConfigError):
        tls.prepare(Pair(pair(first).certificate, pair(second).key))
    assert shown(tls.context) == der(first)


def test_old_versions_are_not_spoken_and_http_1_1_is(first, second):
    tls = Tls(pair(first))
    tls.use(tls.prepare(pair(second)))
    assert tls.context.minimum_version >= ssl.TLSVersion.TLSv1_2
    client = spoken(tls.context)
    assert client.version() in {"TLSv1.2", "TLSv1.3"}
    assert client.selected_alpn_protocol() == "http/1.1"
