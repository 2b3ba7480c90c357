"""A shard's part in a change: a real pipeline and a real edge in this process, told as the supervisor would."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from config.load import encode
from config.schema import Config
from pipeline.observe.layout import Counted, MetricsLayout
from pipeline.process import demand
from pipeline.process.link import Abort, Commit, Committed, Message, Prepare, Prepared
from pipeline.process.renewal import Renewal
from pipeline.process.tls import Tls, carried, pair_of
from tests import certificates
from tests.certificates import Files
from tests.edge.wire import Wire, ask, chat, connected, get, post
from tests.flows import config
from tests.http import Serving, serving

BEGUN = config()
TWO = config(
    workers=[{"name": "echo", "kind": "echo"}, {"name": "other", "kind": "echo", "tokens": 2}],
    routes=[{"name": "echo", "worker": "echo"}, {"name": "other", "worker": "other"}],
    server={"max_body_bytes": 1024},
)


class Shard(NamedTuple):
    server: Serving
    renewal: Renewal
    said: list[Message]
    followed: list[Config]
    layout: MetricsLayout


@asynccontextmanager
async def shard(conf: Config = BEGUN, tls: Tls | None = None) -> AsyncIterator[Shard]:
    said: list[Message] = []
    followed: list[Config] = []
    async with serving(conf, ssl_context=None if tls is None else tls.context) as server:
        layout = demand.layout(conf)
        renewal = Renewal(server.pipeline, server.edge, layout, tls, send=said.append, follow=followed.append)
        yield Shard(server, renewal, said, followed, layout)
        await renewal.aclose()


def status_of(body: dict[str, object], port: int) -> "asyncio.Task[int]":
    async def asked() -> int:
        return (await ask(port, post(body))).status

    return asyncio.create_task(asked())


async def test_what_is_prepared_changes_nothing_before_it_is_committed():
    async with shard() as it:
        it.renewal.prepare(Prepare(1, encode(TWO)))
        assert it.said == [Prepared(1, [])]
        assert await status_of(chat(model="other"), it.server.port) == 404
        it.renewal.commit(Commit(1))
        assert it.said == [Prepared(1, []), Committed(1)]
        assert it.followed == [TWO]
        assert await status_of(chat(model="other"), it.server.port) == 200


async def test_an_open_connection_is_held_to_the_new_limits():
    async with shard() as it, connected(it.server.port) as wire:
        await wire.send(post(chat("x" * 2000)))
        assert (await wire.answer()).status == 200
        it.renewal.prepare(Prepare(1, encode(TWO)))
        it.renewal.commit(Commit(1))
        await wire.send(post(chat("x" * 2000)))
        assert (await wire.answer()).status == 413


async def test_a_stream_that_is_under_way_goes_on():
    slow = config(workers=[{"name": "echo", "kind": "echo", "tokens": 10, "tokens_per_s": 100.0}])
    async with shard(slow) as it, connected(it.server.port) as wire:
        await wire.send(post(chat(stream=True)))
        await wire.head()
        await wire.chunk()
        it.renewal.prepare(Prepare(1, encode(TWO)))
        it.renewal.commit(Commit(1))
        last = chunk = b"x"
        while chunk:
            last, chunk = chunk, await wire.chunk()
        assert last.endswith(b"data: [DONE]\n\n")


async def test_what_is_wrong_is_answered_and_nothing_is_prepared():
    wrong = config(
        workers=[{"name": "w", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "env:NOT_THERE"}],
    )
    async with shard() as it:
        it.renewal.prepare(Prepare(1, encode(wrong)))
        (answer,) = it.said
        assert isinstance(answer, Prepared)
        assert [problem.path for problem in answer.problems] == ["workers[0].api_key"]
        it.renewal.commit(Commit(1))
        assert not it.followed
        assert await status_of(chat(), it.server.port) == 200


async def test_what_breaks_is_an_answer_too():
    async with shard() as it:
        it.renewal.prepare(Prepare(1, b'{"server": 3}'))
        (answer,) = it.said
        assert isinstance(answer, Prepared)
        assert "ValidationError" in answer.problems[0].found


async def test_what_was_called_off_or_overtaken_is_not_run():
    async with shard() as it:
        it.renewal.prepare(Prepare(1, encode(TWO)))
        it.renewal.abort(Abort(1))
        it.renewal.commit(Commit(1))
        it.renewal.prepare(Prepare(2, encode(TWO)))
        it.renewal.prepare(Prepare(3, encode(BEGUN)))
        it.renewal.abort(Abort(2))
        it.renewal.commit(Commit(2))
        assert not it.followed
        it.renewal.prepare(Prepare(4, encode(TWO)))
        it.renewal.commit(Commit(4))
        assert it.followed == [TWO]
        assert [m for m in it.said if isinstance(m, Committed)] == [Committed(4)]


async def test_one_that_is_several_changes_behind_lays_its_counters_out_as_the_others_did():
    others = demand.layout(BEGUN)
    others.extend(Counted({"gone": ["gone"]}))
    others.extend(Counted({"gone too": ["gone", "echo"]}))
    history = others.history
    others.extend(demand.counted(TWO))
    async with shard() as it:
        it.renewal.prepare(Prepare(1, encode(TWO), history))
        it.renewal.commit(Commit(1))
        mine = it.layout
        assert mine.history == others.history
        assert (mine.size, mine.routes, mine.workers) == (others.size, others.routes, others.workers)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    folder = tmp_path_factory.mktemp("certificates")
    return certificates.made(folder, "first"), certificates.made(folder, "second", kind=certificates.RSA)


def secured(files: Files) -> Config:
    return carried(config(server={"tls_certificate": str(files.certificate), "tls_key": str(files.key)}))


async def test_new_handshakes_see_the_new_certificate_and_open_connections_stay(pairs):
    first, second = pairs
    conf = secured(first)
    pair = pair_of(conf.server)
    assert pair is not None
    async with shard(conf, Tls(pair)) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port, ssl=first.client)
        old = Wire(reader, writer)
        it.renewal.prepare(Prepare(1, encode(secured(second))))
        it.renewal.commit(Commit(1))
        for _ in range(2):
            await old.send(get("/healthz"))
            assert (await old.answer()).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", it.server.port, ssl=first.client)
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.port, ssl=second.client)
        new = Wire(reader, writer)
        await new.send(get("/healthz"))
        assert (await new.answer()).status == 200
        for wire in (old, new):
            wire.reset()
