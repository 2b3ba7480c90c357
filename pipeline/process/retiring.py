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


async def retire(child: Child, pipeline: Pipeline, edge: EdgeServer, relay: Relay) -> float:
    """Accepts no more, hands over connections as they become idle and requests as they come, and lets those under way
    finish, all within the time that a drain may take. Returns the seconds that are left of it."""
    relay.retire()
    edge.leave()
    loop = asyncio.get_running_loop()
    outbox = None if edge.secure else _outbox(child)
    until = loop.time() + child.config.server.drain_timeout_ms / 1000
    idle_until = loop.time() + _IDLE_SECONDS

    def give() -> None:
        if outbox is not None:
            for sock in outbox.give(edge.surrender()):
                edge.adopt(sock)

    if outbox is None:
        edge.say_goodbye()
    else:
        edge.after_answer(give)
    try:
        while loop.time() < until and not child.orphaned.is_set():
            give()
            if not pipeline.ingress.tickets and (not edge.connections or (outbox is None and loop.time() > idle_until)):
                break
            await asyncio.sleep(_LOOK_EVERY)
    finally:
        edge.after_answer(None)
        if outbox is not None:
            outbox.close()
    return max(until - loop.time(), 0.0)


def _outbox(child: Child) -> Outbox | None:
    given = child.inheritance
    for peer in child.memory.peers():
        if peer.shard == given.shard and peer.seat != given.seat:
            try:
                return Outbox(Path(child.config.server.data_dir), peer.pid)
            except OSError as error:
                child.logs.log.warning("connections_kept", because=str(error))
    return None
