"""A worker with fewer places than shards, in real processes: never idle while somebody waits, wherever that is."""

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from tests.process.daemon import Daemon, chat, configured, serving

pytestmark = [pytest.mark.slow, pytest.mark.alone]

CALL = 0.05  # seconds
SECONDS = 2.0
PAUSE = 0.1  # seconds after a refusal


class Sessions:
    """Each asks again as soon as it has its answer. `ended` are the times of the answers, `refused` the reasons."""

    def __init__(self, daemon: Daemon, number: int) -> None:
        self.ended: list[float] = []
        self.shards: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._url = daemon.address + "/v1/chat/completions"
        self._number = number

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(self._one(client, f"s{n}", until) for n in range(self._number)))

    async def _one(self, client: aiohttp.ClientSession, session: str, until: float) -> None:
        while time.monotonic() < until:
            async with client.post(self._url, json=chat(), headers={"X-Session-Id": session}) as response:
                await response.read()
            if response.status == 200:
                self.ended.append(time.monotonic())
                self.shards[response.headers["X-Headgate-Shard"]] += 1
            else:
                self.refused[response.headers["X-Headgate-Shed-Reason"]] += 1
                await asyncio.sleep(PAUSE)


async def test_one_place_of_two_shards_is_never_idle_and_nobody_let_in_waits_in_vain(tmp_path):
    path = configured(tmp_path, worker=f"concurrency = 1\nfirst_token_ms = {CALL * 1000:.0f}")
    async with serving(path, shards=2) as daemon:
        await Sessions(daemon, 6).run(0.3)  # so that both shards know the pace
        sessions = Sessions(daemon, 6)
        await sessions.run(SECONDS)
    gaps = [after - before for before, after in zip(sessions.ended, sessions.ended[1:], strict=False)]
    assert len(sessions.ended) >= 0.85 * SECONDS / CALL
    assert max(gaps) < 4 * CALL  # it was 0.4 s
    assert "overdue" not in sessions.refused
    assert min(sessions.shards[shard] for shard in "01") >= 0.2 * len(sessions.ended)
