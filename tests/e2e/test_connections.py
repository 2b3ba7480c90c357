"""Connections are spread over the shards, whichever process the kernel wakes first."""

import asyncio

import pytest

from tests.process.daemon import configured, serving

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.slow
async def test_each_shard_has_its_share(tmp_path):
    async with serving(configured(tmp_path), shards=2) as daemon:
        host, port = daemon.address.removeprefix("http://").split(":")
        connections = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        try:
            async with asyncio.timeout(10):
                while True:
                    metrics = await daemon.metrics()
                    name = "headgate_connections"
                    held = [metrics[name, frozenset([("shard", shard)])] for shard in ("0", "1")]
                    if sum(held) >= 40 and min(held) >= 12:
                        break
                    await asyncio.sleep(0.05)
            shards = set()
            for reader, writer in connections:  # those that were handed on are whole
                writer.write(HEALTH)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                shards.add(head.partition(b"X-Headgate-Shard: ")[2][:1])
            assert shards == {b"0", b"1"}
        finally:
            for _, writer in connections:
                writer.close()
