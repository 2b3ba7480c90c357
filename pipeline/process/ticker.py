"""What a shard does ten times a second: lets its flow act on time, and shows how it is."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping

from pipeline.edge.app import EdgeServer
from pipeline.observe.lines import LineWriter
from pipeline.observe.metrics import ShardGauges
from pipeline.process.relay import Relay
from pipeline.wiring import Pipeline

INTERVAL = 0.1
_TASKS_EVERY = 10  # ticks


class Ticker:
    """Its `run` ends only by cancellation, or with an error that the shard must not survive."""

    def __init__(
        self, pipeline: Pipeline, edge: EdgeServer, relay: Relay, gauges: ShardGauges, writer: LineWriter
    ) -> None:
        self._pipeline = pipeline
        self._edge = edge
        self._relay = relay
        self._gauges = gauges
        self._writer = writer
        self.workflows: Callable[[], Mapping[str, int]] | None = None  # what their engine says of itself
        self._dropped = 0

    async def run(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            self.tick()
            if number % _TASKS_EVERY == 0:
                self._gauges.tasks(len(asyncio.all_tasks()))  # its cost grows with their number
            due = max(due + INTERVAL, time.monotonic())  # what was missed is not made up for
            await asyncio.sleep(due - time.monotonic())
            self._gauges.lag(max(0.0, time.monotonic() - due))

    def tick(self) -> None:
        now = time.monotonic()
        flow, gauges = self._pipeline.flow, self._gauges
        flow.tick(now)
        self._relay.tick(now, self._edge.connections)
        for stage in flow.stages:
            gauges.stage(stage.place, stage.inbox.statistics(now), stage.active)
        gauges.workers(flow.lanes, now)
        gauges.sessions(sum(lane.queue.sessions for lane in flow.lanes.values()), self._relay.relayed)
        if self.workflows is not None:
            gauges.workflows(self.workflows())
        dropped, self._dropped = self._writer.dropped - self._dropped, self._writer.dropped
        gauges.process(self._edge.connections, dropped)
