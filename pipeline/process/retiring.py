"""The end of a shard's process whose place another has taken: nothing is cut off, nobody is refused."""

import asyncio
from pathlib import Path

from pipeline.edge.app import EdgeServer
from pipeline.process.child import Child
from pipeline.process.handover import Outbox
from pipeline.process.relay import Relay
from pipeline.wiring import Pipeline

_LOOK_EVERY = 0.02  # seconds
_IDLE_SECONDS = 2.0  # that a connection which cannot be handed over (TLS) may go on being idle


async def retire(child: Child, pipeline: Pipeline, edge: EdgeServer, relay: Relay) -> None:
    """Accepts no more, hands over connections as they become idle and requests as they come, and lets those under way
    finish, all within the time that a drain may take."""
    relay.retire()
    edge.leave()
    loop = asyncio.get_running_loop()
    outbox = _outbox(child)
    until = loop.time() + child.config.server.drain_timeout_ms / 1000
    idle_until = loop.time() + _IDLE_SECONDS
    try:
        while loop.time() < until and not child.orphaned.is_set():
            if outbox is not None:
                for sock in outbox.give(edge.surrender()):
                    edge.adopt(sock)
            if not pipeline.ingress.tickets and (not edge.connections or loop.time() > idle_until):
                return
            await asyncio.sleep(_LOOK_EVERY)
    finally:
        if outbox is not None:
            outbox.close()


def _outbox(child: Child) -> Outbox | None:
    given = child.inheritance
    for peer in child.memory.peers():
        if peer.shard == given.shard and peer.seat != given.seat:
            try:
                return Outbox(Path(child.config.server.data_dir), peer.pid)
            except OSError as error:
                child.logs.log.warning("connections_kept", because=str(error))
    return None
