"""What the admin API must bear: web pages, large and slow and malformed calls, and many at once."""

import asyncio
import gzip
import io
import json
import socket

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.schema import ServerSection
from pipeline.process.admin_http import Guard, Router
from pipeline.process.admin_listener import MAX_BODY_BYTES, Listener
from tests.process.operators import config, operated

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def operator(tmp_path):
    async with operated(tmp_path) as operator:
        yield operator
        assert operator.control.config == config(), "an attack has changed something"
        assert (await operator.call("GET", "/status"))[0] == 200


async def raw(operator, data: bytes) -> bytes:
    """The whole answer to bytes on a TCP connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", operator.port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            return head + await reader.readexactly(size)
    finally:
        writer.close()


class TestWebPages:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:9901", "127.0.0.1.evil.example", "", "[::1", "localhost.evil.example"]
    )
    async def test_a_name_that_points_here_is_no_way_in(self, operator, host):
        answer = await raw(operator, f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 "), answer
        assert b'"host_not_allowed"' in answer

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9901", "127.0.0.1:1", "[::1]:9901", "10.1.2.3"])
    async def test_an_address_or_localhost_is(self, operator, host):
        answer = await raw(operator, f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "", "https://127.0.0.1", "http://localhost:3000"]
    )
    async def test_requests_across_sites_are_refused(self, operator, origin):
        for method, path in (("POST", "/drain"), ("GET", "/status")):
            status, code, _ = await operator.failed(method, path, headers={"Origin": origin})
            assert (status, code) == (403, "origin_not_allowed")
        assert operator.control.calls == []

    async def test_its_own_origin_may(self, operator):
        status, _ = await operator.call("GET", "/status", headers={"Origin": operator.desk.address})
        assert status == 200

    @pytest.mark.parametrize(
        "media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonx"]
    )
    async def test_what_a_form_can_send_is_no_call(self, operator, media):
        body = b'{"level": "debug"}'
        async with operator.tcp.put(
            operator.desk.address + "/log-level", data=body, headers={"Content-Type": media}
        ) as response:
            assert response.status == 415, await response.text()
        assert operator.control.calls == []


class TestBodies:
    async def test_ten_megabytes_are_refused_unread_or_cut_off(self, operator):
        url = operator.desk.address + "/routes/echo"
        large = b'{"system": "' + b"x" * 10_000_000 + b'"}'
        async with operator.tcp.put(url, data=io.BytesIO(large), headers=JSON | {"Expect": "100-continue"}) as response:
            assert response.status == 413

        async def pieces():
            for _ in range(160):
                yield b"x" * 65_536

        try:
            async with operator.tcp.put(url, data=pieces(), headers=JSON) as response:
                assert response.status == 413
        except aiohttp.ClientError:
            pass  # cut off while it was still sending

    async def test_a_template_of_a_mebibyte_is_not_too_large(self, tmp_path):
        async with operated(tmp_path) as operator:
            table = {"worker": "echo", "system": "x" * (1 << 20)}
            assert len(json.dumps(table)) < MAX_BODY_BYTES
            data = io.BytesIO(json.dumps(table).encode())
            url = operator.desk.address + "/routes/large"
            async with operator.tcp.put(url, data=data, headers=JSON) as response:
                assert response.status == 200, await response.text()

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 1_000_000,
            b'{"a":' * 300_000,
            b'{"level": "debug"',
            b"\xff\xfe\x00",
            b'{"level": "\xff"}',
            b'{"level": "\\ud800"}',
            b"NaN",
            b"{'level': 'debug'}",
            b" ",
        ],
        ids=["deep array", "deep object", "cut", "utf-16", "latin", "surrogate", "nan", "python", "blank"],
    )
    async def test_what_is_no_json(self, operator, body):
        for method, path in (("PUT", "/log-level"), ("PUT", "/workers/echo"), ("PATCH", "/routes/both/weights")):
            async with operator.tcp.request(
                method, operator.desk.address + path, data=io.BytesIO(body), headers=JSON
            ) as response:
                answer = await response.json()
                assert (response.status, answer["error"]["code"]) == (400, "invalid_json"), path

    async def test_tables_nested_deeper_than_any_configuration(self, operator):
        value: object = 1
        for _ in range(500):
            value = {"a": value, "b": [value] if not isinstance(value, dict) else []}
        for field in ("headers", "model", "nested"):
            status, _ = await operator.call(
                "PUT", "/workers/x", {"kind": "openai", "base_url": "http://x/v1", field: value}
            )
            assert status in (400, 422), field

    async def test_compressed_bodies_are_not_unpacked(self, operator):
        bomb = gzip.compress(b" " * 50_000_000)
        headers = JSON | {"Content-Encoding": "gzip"}
        async with operator.tcp.put(operator.desk.address + "/log-level", data=bomb, headers=headers) as response:
            assert response.status == 415

    async def test_a_body_where_none_belongs(self, operator):
        for method, path in (
            ("POST", "/drain"),
            ("POST", "/reload"),
            ("DELETE", "/routes/both"),
            ("POST", "/workers/echo/drain"),
        ):
            status, code, _ = await operator.failed(method, path, {"really": True})
            assert (status, code) == (400, "unknown_parameter"), path

    async def test_queries_that_nobody_asked_for(self, operator):
        for method, path in (("POST", "/drain?now"), ("GET", "/status?x=1"), ("DELETE", "/workers/spare?forse=true")):
            status, code, _ = await operator.failed(method, path)
            assert (status, code) == (400, "unknown_parameter"), path
        for value in ("1", "TRUE", "", "yes"):
            status, code, _ = await operator.failed("DELETE", f"/workers/spare?force={value}")
            assert (status, code) == (400, "invalid_value"), value


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["name", "kind", "tokens", "headers", "worker", "workers", "filters", "template", "system", "degrade", "collection"]
)
TABLES = st.dictionaries(FIELDS | st.text(max_size=6), JSONS, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSONS | TABLES)
async def test_any_json_is_taken_or_refused_and_never_breaks_anything(operator, body):
    before = operator.control.config
    for path in ("/workers/echo", "/routes/new", "/routes/both/weights", "/log-level"):
        method = "PATCH" if path.endswith("weights") else "PUT"
        try:
            data = msgspec.json.encode(body)
        except UnicodeEncodeError:
            return
        async with operator.unix.request(method, "http://x" + path, data=data, headers=JSON) as response:
            assert response.status in (200, 400, 404, 422), await response.text()
            if response.status != 200:
                assert (await response.json())["error"]["message"]
    operator.control.config = before


class TestNames:
    @pytest.mark.parametrize(
        "path",
        [
            "/workers/a%2Fbig%3Amodel.v1",
            "/workers/a%2fbig:model.v1",
            "/workers/a/big:model.v1",
            "/workers/%61/big:model%2Ev1",
        ],
    )
    async def test_slashes_as_they_are_or_encoded(self, operator, path):
        status, answer = await operator.call("GET", path)
        assert (status, answer["name"]) == (200, "a/big:model.v1")

    async def test_a_name_that_ends_as_a_verb_does(self, tmp_path):
        workers = [{"name": name, "kind": "echo"} for name in ("a", "a/drain", "a/../b")]
        async with operated(tmp_path, config(workers=workers, routes=[{"name": "r", "worker": "a"}])) as operator:
            await operator.call("POST", "/workers/a%2Fdrain/drain")
            assert [worker.drain for worker in operator.control.config.workers] == [False, True, False]
            await operator.call("POST", "/workers/a/drain")
            assert [worker.drain for worker in operator.control.config.workers] == [True, True, False]
            assert (await operator.call("GET", "/workers/a/drain"))[1]["name"] == "a/drain"
            for path in ("/workers/a%2F..%2Fb", "/workers/a/../b"):
                assert (await operator.call("GET", path))[1]["name"] == "a/../b"

    @pytest.mark.parametrize(
        "name", ["%FF", "%", "%zz", "..%2f..%2fetc%2fpasswd", "x" * 5000, "%0d%0aX-Evil:1", "%e2%80%ae", "a b"]
    )
    async def test_names_that_none_can_be(self, operator, name):
        answer = await raw(operator, f"GET /workers/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert answer.split()[1] in (b"400", b"404"), answer
        assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0]
        assert len(answer) < 2000

    async def test_bytes_in_the_path_that_are_no_utf8(self, operator):
        answer = await raw(operator, b"GET /workers/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.split()[1] in (b"400", b"404"), answer


class TestSlowAndMany:
    @pytest.mark.slow
    async def test_who_sends_half_a_head_or_half_a_body_is_cut_off(self):
        limits = ServerSection(head_timeout_ms=50, body_timeout_ms=50, idle_timeout_ms=400)
        listener = Listener(Router({("PUT", "/x"): _never}), Guard(), limits)
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await listener.start(sock)
        put = b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        try:
            for sent, status in ((b"", b""), (b"PUT /x HT", b" 408 "), (put, b" 408 ")):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                async with asyncio.timeout(5):
                    assert status in await reader.read()
                writer.close()
        finally:
            await listener.stop()

    async def test_who_does_not_take_the_answer_is_cut_off(self, tmp_path):
        async def large(_):
            return {"keys": "x" * 30_000_000}

        listener = Listener(Router({("GET", "/x"): large}), Guard(), ServerSection(idle_timeout_ms=100))
        sock = socket.create_server(("127.0.0.1", 0))
        await listener.start(sock)
        with socket.create_connection(sock.getsockname()) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(5):
                while listener._http.open == 0:
                    await asyncio.sleep(0.01)
                while listener._http.open:
                    await asyncio.sleep(0.01)
        await listener.stop()

    @pytest.mark.slow
    async def test_a_thousand_calls_at_once(self, tmp_path):
        async with operated(tmp_path) as operator:

            async def one(number: int) -> bytes:
                path = ("/status", "/workers", "/workers/nope", "/stages")[number % 4]
                try:
                    return (await raw(operator, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())).split()[1]
                except (ConnectionError, asyncio.IncompleteReadError):
                    return b""

            statuses = await asyncio.gather(*(one(number) for number in range(1000)))
            assert set(statuses) <= {b"200", b"404", b"503", b""}
            assert sum(status in (b"200", b"404") for status in statuses) >= 256, "as many as there are connections"
            assert (await operator.call("GET", "/status"))[0] == 200

    async def test_a_thousand_calls_on_few_connections_are_all_answered(self, operator):
        connector = aiohttp.TCPConnector(limit=50)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one() -> int:
                async with session.get(operator.desk.address + "/status") as response:
                    await response.read()
                    return response.status

            assert set(await asyncio.gather(*(one() for _ in range(1000)))) == {200}

    async def test_heads_that_are_no_http(self, operator):
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET\r\n\r\n",
            b"GET /status HTTP/9.9\r\n\r\n",
            b"\x00" * 100 + b"\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", operator.port)
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(5):
                assert b" 200 " not in await reader.read(), sent
            writer.close()


async def _never(_):
    raise AssertionError("a call that was not complete")
