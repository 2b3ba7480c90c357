"""`headgate ask`: which server it asks, and what it says where there is none. Answers: see `tests/e2e`."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from tests import certificates
from tests.process.daemon import ROOT, configured, started
from tests.process.operators import operated

COMMAND = Path(sys.executable).parent / "headgate"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("HEADGATE")]:
        monkeypatch.delenv(name)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ask", "hi", *arguments], catch_exceptions=False)


async def asked(*arguments: str) -> str:
    result = await asyncio.to_thread(ask, *arguments)
    assert result.exit_code == 1
    return result.stderr


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("host = '127.0.0.1'\nport = 1", "http://127.0.0.1:1/v1"),
        ("host = '0.0.0.0'\nport = 2\nanonymous = true", "http://127.0.0.1:2/v1"),
        ("host = '::'\nport = 3\nanonymous = true", "http://[::1]:3/v1"),
        ("port = 4\ntls_certificate = 'c'\ntls_key = 'k'", "https://127.0.0.1:4/v1"),
    ],
)
def test_without_a_daemon_the_configured_address_is_named(tmp_path, monkeypatch, server, url):
    for name in "ck":
        (tmp_path / name).write_text("")
    file = configured(tmp_path, server=server)
    assert f"nothing answers at {url}: start it with" in ask("--config", str(file)).stderr
    monkeypatch.setenv("HEADGATE_CONFIG", str(file))
    assert f"nothing answers at {url}: start it with" in ask().stderr


def test_a_configuration_that_is_refused(tmp_path):
    file = configured(tmp_path, server="port = 70000")
    result = ask("--config", str(file))
    assert (result.exit_code, "server.port" in result.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True])
async def test_a_running_daemon_is_found_where_it_serves(tmp_path, secure):
    """On a port that the configuration does not name, and also where that is being mended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADGATE", "SSL_"))}
    server = ""
    if secure:
        certificates.made(tmp_path, "own").to(tmp_path)
        server = 'tls_certificate = "cert.pem"\ntls_key = "key.pem"'
        environment["SSL_CERT_FILE"] = str(tmp_path / "cert.pem")
    file = configured(tmp_path, server=server)
    async with started(file) as daemon:
        line = await daemon.announced()
        assert ("https://" in line) is secure
        file.write_text(file.read_text() + "\n[server.nonsense]\n")
        command = [str(COMMAND), "ask", "--config", str(file), "where are you"]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.returncode, done.stdout) == (0, "where are you\n"), done.stderr


@pytest.mark.slow
async def test_a_wrong_scheme_or_path_is_told(tmp_path):
    async with started(configured(tmp_path)) as daemon:
        await daemon.announced()
        said = await asked("--url", daemon.address.replace("http", "https") + "/v1")
        assert "no TLS with https://127.0.0.1" in said
        assert "name it with --url http://" in said
        for more in ([], ["--route", "echo"]):
            said = await asked("--url", daemon.address, *more)
            assert "there is nothing at http://127.0.0.1" in said
            assert "with the version, http://HOST:PORT/v1" in said


async def test_the_admin_api_takes_no_questions(tmp_path):
    async with operated(tmp_path) as operator:
        said = await asked("--url", operator.desk.address)
        assert "expected an OpenAI-compatible server" in said
