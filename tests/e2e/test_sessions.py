"""Sessions stay with their shard, whatever connection their requests come by."""

import asyncio
import random
from collections import Counter

import pytest

from benchmarks.load.answer import End
from benchmarks.load.wire import Wire
from pipeline.policy.affinity import owner
from tests.process.daemon import configured, serving

pytestmark = pytest.mark.slow

SESSIONS = 1000
EACH = 10
CONNECTIONS = 32
BODY = b'{"model":"echo","messages":[{"role":"user","content":"hello"}]}'


async def test_a_thousand_sessions_over_pooled_connections_land_on_their_owner_every_time(tmp_path):
    due = [f"session-{number}" for number in range(SESSIONS)] * EACH
    random.Random(1).shuffle(due)
    shards: Counter[str] = Counter()
    astray = []
    # As many as there are clients may run at once: nothing here is about overload.
    async with serving(configured(tmp_path, worker="concurrency = 256", server="shards = 2")) as daemon:
        wire = Wire(f"{daemon.address}/v1")

        async def client() -> None:
            while due:
                session = due.pop()
                lines = f"X-Session-Id: {session}\r\n".encode()
                answer = await wire.ask(BODY, headers=lines, stream=False, deadline=None, leave=None, leave_at=None)
                assert answer.end is End.WHOLE, answer.detail
                shards[answer.shard] += 1
                if answer.shard != str(owner(session, range(2))):
                    astray.append((session, answer.shard))

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
        assert wire.opened == CONNECTIONS  # so each carried some three hundred sessions
        await wire.aclose()
    assert astray == []
    assert shards.total() == SESSIONS * EACH
    assert min(shards.values()) > SESSIONS * EACH * 0.4
