"""A daemon that refuses nearly everything: its log, its counters and its clients say the same."""

import asyncio
import signal

import aiohttp
import pytest

from tests.process.daemon import ECHO, chat, configured, serving

pytestmark = pytest.mark.slow

FULL = (
    ECHO.format(worker="tokens = 40\ntokens_per_s = 40.0\nconcurrency = 1")
    + '[stages.inference]\ncapacity = 1\n[admission]\nwait_budget_ms = "off"\n[logging]\nrefusals_per_s = 2\n'
)


async def test_what_gets_no_line_is_told_before_the_end(tmp_path):
    async with serving(configured(tmp_path, FULL)) as daemon:
        url = daemon.address + "/v1/chat/completions"

        async def ask(session: aiohttp.ClientSession) -> int:
            async with session.post(url, json=chat()) as response:
                await response.read()
                return response.status

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            statuses = await asyncio.gather(*(ask(session) for _ in range(60)))
            refused = statuses.count(503)
            assert refused > 10
            assert refused + statuses.count(200) == 60
            metrics = await daemon.metrics()
            shed = sum(
                value
                for (name, labels), value in metrics.items()
                if name == "headgate_requests_total" and ("outcome", "shed") in labels
            )
            by_class = sum(
                value
                for (name, labels), value in metrics.items()
                if name == "headgate_requests_by_class_total" and ("outcome", "shed") in labels
            )
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
        lines = [line for line in daemon.logged("request") if line["outcome"] == "shed"]
        left_out = sum(line["count"] for line in daemon.logged("refusals_left_out"))
        assert shed == by_class == refused == len(lines) + left_out
        assert 0 < len(lines) < refused
        (stopped,) = daemon.logged("stopped")
        assert stopped["shed"] == refused
