"""Certificates for tests, made on the spot by the `openssl` command."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

EC = "ec -pkeyopt ec_paramgen_curve:prime256v1"
RSA = "rsa:2048"


class Files(NamedTuple):
    certificate: Path
    key: Path

    @property
    def client(self) -> ssl.SSLContext:
        """Of a client that trusts this certificate only."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def to(self, folder: Path) -> "Files":
        """A copy under the names that a configuration may go on using."""
        copy = Files(folder / "cert.pem", folder / "key.pem")
        for file, text in zip(copy, (one.read_text() for one in self), strict=True):
            file.write_text(text)
        return copy


def made(folder: Path, name: str, *, kind: str = EC) -> Files:
    """A self-signed one for 127.0.0.1 and localhost."""
    files = Files(folder / f"{name}.crt", folder / f"{name}.key")
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    command = f"req -x509 -newkey {kind} -nodes -days 2 -subj /CN={name} -addext {names}".split()
    _openssl(*command, "-keyout", str(files.key), "-out", str(files.certificate))
    return files


def expired(folder: Path) -> Files:
    """One that was valid until yesterday."""
    files = made(folder, "expired")
    request, base, yesterday = folder / "expired.csr", folder / "ca", datetime.now(UTC) - timedelta(days=1)
    _openssl("req", "-new", "-key", str(files.key), "-subj", "/CN=expired", "-out", str(request))
    base.mkdir()
    (base / "index").touch()
    (base / "serial").write_text("01\n")
    (base / "conf").write_text(
        f"[ca]\ndefault_ca = own\n[own]\ndatabase = {base}/index\nserial = {base}/serial\nnew_certs_dir = {base}\n"
        "default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n"
    )
    dates = ["-startdate", "20200101000000Z", "-enddate", yesterday.strftime("%Y%m%d%H%M%SZ")]
    by = ["-selfsign", "-keyfile", str(files.key), "-in", str(request), "-out", str(files.certificate)]
    _openssl("ca", "-batch", "-config", str(base / "conf"), *dates, *by)
    return files


def encrypted(files: Files, to: Path) -> Files:
    """The same with its key under a passphrase."""
    _openssl("pkey", "-in", str(files.key), "-aes256", "-passout", "pass:secret", "-out", str(to))
    return Files(files.certificate, to)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
