"""The desk's listeners, and what shards get from them."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from config.errors import ConfigError
from pipeline.core.ports import Readiness
from pipeline.process.counters import SharedMemory, State
from pipeline.process.errors import StartError
from pipeline.process.operations import ShardOperations
from tests.process.operators import config, operated

TOKEN = "correct horse battery staple"


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=1, block=8)
    yield memory
    memory.close()


def admin(**section):
    return config(admin={"port": 0} | section)


@pytest.fixture
def certificates(tmp_path_factory):
    """Two self-signed pairs, each as certificate and key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make certificates with")
    folder = tmp_path_factory.mktemp("tls")
    pairs = []
    for name in ("one", "two"):
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
        names = "subjectAltName=IP:127.0.0.1"
        arguments = [*command.split(), "-addext", names, "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(arguments, check=True, capture_output=True, timeout=20)
        pairs.append((str(certificate), str(key)))
    return pairs


@pytest.mark.parametrize("folder", ["short", "x" * 120], ids=["short", "long"])
async def test_a_shard_gets_the_whole_daemons_metrics(memory, tmp_path, folder):
    (tmp_path / folder).mkdir()
    async with operated(tmp_path / folder) as operator:
        asker = ShardOperations(memory, operator.path, essential=False)
        assert b'headgate_requests_offered_total{route="echo"} 0.0' in await asker.metrics()
        await asker.aclose()


async def test_a_supervisor_that_is_gone_is_a_connection_error(memory, tmp_path):
    asker = ShardOperations(memory, tmp_path / "nobody", essential=False)
    with pytest.raises(ConnectionError, match="the supervisor does not answer"):
        await asker.metrics()
    await asker.aclose()


async def test_a_shard_is_answered_while_others_hold_all_tcp_connections(memory, tmp_path):
    async with operated(tmp_path) as operator:
        held = [await asyncio.open_connection("127.0.0.1", operator.port) for _ in range(256)]
        reader, writer = await asyncio.open_connection("127.0.0.1", operator.port)
        writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        asker = ShardOperations(memory, operator.path, essential=False)
        assert b"headgate_build_info" in await asker.metrics()
        await asker.aclose()
        for _, one in [*held, (reader, writer)]:
            one.close()


@pytest.mark.parametrize(
    ("shard", "knowledge", "essential", "draining", "expected"),
    [
        (State.READY, State.ABSENT, False, False, Readiness(True, {"shard 0": "ready"})),
        (State.STARTING, State.ABSENT, False, False, Readiness(False, {"shard 0": "starting"})),
        (State.READY, State.ABSENT, False, True, Readiness(False, {"shard 0": "draining"})),
        (State.READY, State.DOWN, False, False, Readiness(True, {"shard 0": "ready", "knowledge": "down"})),
        (State.READY, State.DOWN, True, False, Readiness(False, {"shard 0": "ready", "knowledge": "down"})),
        (State.READY, State.READY, True, False, Readiness(True, {"shard 0": "ready", "knowledge": "ready"})),
    ],
)
async def test_is_ready_when_some_route_can_be_answered(
    memory, tmp_path, shard, knowledge, essential, draining, expected
):
    memory.seats[0].born(7)
    memory.seats[0].state, memory.knowledge.state, memory.draining = shard, knowledge, draining
    memory.tell(0, shard)
    if shard is State.READY:
        memory.appoint(0, 0)
    asked = ShardOperations(memory, tmp_path / "s", essential=essential)
    assert asked.readiness() == expected
    await asked.aclose()


async def test_the_socket_is_for_this_user_only_and_goes_with_the_desk(tmp_path):
    (tmp_path / "supervisor.sock").touch()  # left by one that was killed
    async with operated(tmp_path) as operator:
        assert operator.path.is_socket()
        assert operator.path.stat().st_mode & 0o777 == 0o600
    assert not operator.path.exists()


async def test_without_a_tcp_listener_the_socket_answers_all_the_same(tmp_path):
    async with operated(tmp_path, admin(enabled=False)) as operator:
        assert operator.desk.address == ""
        status, answer = await operator.call("GET", "/status", unix=True)
        assert (status, answer["admin"]) == (200, "")


async def test_the_token_is_asked_for_on_tcp_and_not_on_the_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("ADMIN", TOKEN)
    async with operated(tmp_path, admin(token="env:ADMIN")) as operator:
        assert (await operator.call("GET", "/status", unix=True))[0] == 200
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert (await operator.call("GET", "/status", headers=right))[0] == 200
        assert (await operator.call("GET", "/status", headers=right | {"Host": "gateway.example"}))[0] == 200
        for wrong in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer " + TOKEN[:-1]}):
            async with operator.tcp.get(operator.desk.address + "/status", headers=wrong) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert TOKEN[:8] not in await response.text()
        assert (await operator.failed("GET", "/no/such/path"))[0] == 401, "what there is, is not for everybody"


async def test_another_token_counts_from_the_reload_on(tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    configured = admin(token=f"file:{file}")
    async with operated(tmp_path, configured) as operator:
        first, second = ({"Authorization": f"Bearer {word}"} for word in ("first", "second"))
        file.write_text("second\n")
        prepared = operator.desk.prepare(configured)
        assert (await operator.call("GET", "/status", headers=first))[0] == 200
        operator.desk.use(prepared)
        assert (await operator.call("GET", "/status", headers=first))[0] == 401
        assert (await operator.call("GET", "/status", headers=second))[0] == 200
        file.write_text("")
        with pytest.raises(ConfigError, match=r"admin\.token"):
            operator.desk.prepare(configured)
        assert (await operator.call("GET", "/status", headers=second))[0] == 200


async def test_a_missing_token_keeps_the_desk_from_opening_and_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"admin\.token"):
        async with operated(tmp_path, admin(token="env:SURELY_NOT_SET")):
            pass
    assert not (tmp_path / "supervisor.sock").exists()


async def test_a_port_in_use_is_named_with_its_key(tmp_path):
    async with operated(tmp_path) as operator:
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(
            StartError, match=f"The admin API cannot listen on .* port {operator.port} is in use .* admin.port"
        ):
            async with operated(other, admin(port=operator.port)):
                pass


async def test_tls_with_a_certificate_that_can_be_exchanged(tmp_path, certificates):
    (one, key_one), (two, key_two) = certificates
    configured = admin(tls_certificate=one, tls_key=key_one)
    async with operated(tmp_path, configured) as operator:
        assert operator.desk.address.startswith("https://127.0.0.1:")
        assert (await operator.call("GET", "/status"))[0] == 200
        assert await _certificate(operator) == _der(one)
        other = replace(configured, admin=replace(configured.admin, tls_certificate=two, tls_key=key_two))
        operator.desk.use(operator.desk.prepare(other))
        assert await _certificate(operator) == _der(two)
        broken = replace(configured, admin=replace(configured.admin, tls_certificate=two, tls_key=key_one))
        with pytest.raises(ConfigError, match=r"admin\.tls_key"):
            operator.desk.prepare(broken)
        assert await _certificate(operator) == _der(two)


def _der(certificate: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(certificate).read_text())


async def _certificate(operator) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", operator.port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


async def test_plain_http_on_the_tls_port_is_closed_not_served(tmp_path, certificates):
    configured = admin(tls_certificate=certificates[0][0], tls_key=certificates[0][1])
    async with operated(tmp_path, configured) as operator:
        with pytest.raises(aiohttp.ClientError):
            await operator.tcp.get(f"http://127.0.0.1:{operator.port}/status")


async def test_a_host_that_is_not_there_is_named_with_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("ADMIN", TOKEN)
    with pytest.raises(StartError, match=r"no host 'nowhere\.invalid' here\. Correct admin\.host"):
        async with operated(tmp_path, admin(host="nowhere.invalid")):
            pass
