"""The five stages and the queues between them, top to bottom."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from config.schema import StagesSection
from pipeline.core.messages import AssembleOutput, InferenceOutput, PostOutput, PromptRequest, RagOutput
from pipeline.core.outcomes import STAGES, Place
from pipeline.core.ports import Hooks, Retriever
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.policy.lane import Lane
from pipeline.policy.lanes import LaneOrder
from pipeline.stages.assemble import AssembleStage, Estimate
from pipeline.stages.backend import Backend
from pipeline.stages.base import Clock, Stage, Trace
from pipeline.stages.inference import InferenceStage
from pipeline.stages.post import PostStage
from pipeline.stages.rag import RagStage
from pipeline.stages.stream import StreamStage


class Flow:
    """One shard's pipeline. `lanes` are the workers', by name; there are none before `renew`. `failed` gets an
    exception if a run loop ever ends by itself: the process must not go on then."""

    def __init__(
        self,
        sections: StagesSection,
        clock: Clock,
        hooks: Hooks,
        *,
        retriever: Retriever | None,
        estimate: Estimate,
        chance: Callable[[], float],
    ) -> None:
        rag: StageQueue[PromptRequest] = StageQueue(sections.rag.capacity)
        assemble: StageQueue[RagOutput] = StageQueue(sections.assemble.capacity)
        self.lanes: dict[str, Lane[AssembleOutput]] = {}
        self._order: LaneOrder[AssembleOutput] = LaneOrder((), 0, clock)
        inference: StageQueue[AssembleOutput] = StageQueue(sections.inference.capacity, self._order)
        post: StageQueue[InferenceOutput] = StageQueue(sections.post.capacity)
        stream: StageQueue[PostOutput] = StageQueue(sections.stream.capacity)
        self.stream = StreamStage(stream, sections.stream.concurrency, clock)
        self.post = PostStage(post, self.stream, sections.post.concurrency, clock)
        self.inference = InferenceStage(
            inference,
            self.post,
            clock,
            order=self._order,
            ahead=stream,
            hooks=hooks,
            chance=chance,
        )
        self.assemble = AssembleStage(assemble, self.inference, sections.assemble.concurrency, clock, estimate=estimate)
        self.inference.back = self.assemble.offer
        self.rag = RagStage(rag, self.assemble, sections.rag.concurrency, clock, retriever=retriever)
        self.stages: tuple[Stage[Any, Any], ...] = (self.rag, self.assemble, self.inference, self.post, self.stream)
        self.failed: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: set[str] = set()  # lanes whose workers are gone
        self._replaced: list[Backend] = []  # that are to be closed after their last call
        self._closing: set[asyncio.Task[None]] = set()

    def renew(
        self,
        sections: StagesSection,
        lanes: Mapping[str, Lane[AssembleOutput]],
        backends: Mapping[str, Backend],
    ) -> None:
        """Other bounds, lanes and workers from now on. A lane that is not among `lanes` stays, and its worker, until
        nothing waits or runs there; a worker that is replaced serves the calls under way. Then they are closed."""
        current = self.inference.backends
        self._leaving = {name for name in self.lanes if name not in lanes}
        self._replaced += [old for name, old in current.items() if backends.get(name, old) is not old]
        self.inference.backends = {**{name: current[name] for name in self._leaving}, **backends}
        self.lanes = {**lanes, **{name: self.lanes[name] for name in self._leaving}}
        for stage, section in (
            (self.rag, sections.rag),
            (self.assemble, sections.assemble),
            (self.post, sections.post),
            (self.stream, sections.stream),
        ):
            stage.resize(section.capacity, section.concurrency)
        self.stream.flush = sections.stream.flush_ms / 1000
        self.stream.flush_load = sections.stream.flush_load
        self.inference.resize(sections.inference.capacity, self.inference.concurrency)
        self._arrange()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        for stage in self.stages:
            task = loop.create_task(stage.run(), name=f"stage {stage.place.label}")
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def trace(self, trace: Trace | None) -> None:
        """`trace(ticket, place)` is called whenever a request has passed a stage."""
        for stage in self.stages:
            stage.trace = trace

    def tick(self, now: float) -> None:
        """To be called about ten times a second: ends what waits beyond its deadline, updates the service rates."""
        for stage in self.stages:
            stage.tick(now)
        if self._leaving or self._replaced:
            self._let_go()

    def give_back(self, ticket: Ticket) -> None:
        """Frees what an ended request holds: its place in the queue it waits in, those reserved ahead, and in Post
        and Stream."""
        if ticket.filtered:
            self.post.left()
        if ticket.streaming:
            self.stream.left()
        if ticket.place is not Place.INGRESS:
            queue = self.stages[ticket.place].inbox
            if ticket.waits and queue.waiting:
                queue.drop(ticket)
        if ticket.held:
            for place in STAGES:
                if ticket.held & (1 << place):
                    self.stages[place].inbox.release()
            ticket.held = 0
        if ticket.flow is not None:  # last: what waits in the lane has been taken out
            ticket.lane.leave(ticket.flow, ticket.priority, ticket.ended, started=ticket.started)
            ticket.flow = None

    async def stop(self) -> None:
        """Closes the queues and waits for the run loops to end. Requests must have ended before."""
        for stage in self.stages:
            stage.inbox.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.assemble.close()
        self.inference.close()
        for backend in self._replaced:
            self._close(backend)
        await asyncio.gather(*self._closing, return_exceptions=True)
        for backend in self.inference.backends.values():
            await backend.aclose()
        if self.failed is not None and self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # seen
        elif self.failed is not None:
            self.failed.cancel()

    def _arrange(self) -> None:
        ahead = min(self.post.inbox.capacity, self.stream.inbox.capacity)
        self._order.renew(self.lanes.values(), ahead)

    def _let_go(self) -> None:
        """Parts with lanes and workers that nobody needs any more."""
        gone = [name for name in self._leaving if self.lanes[name].empty]
        for name in gone:
            self._leaving.remove(name)
            del self.lanes[name]
            self._replaced.append(self.inference.backends.pop(name))
        if gone:
            self._arrange()
        idle = [backend for backend in self._replaced if not backend.calls]
        self._replaced = [backend for backend in self._replaced if backend.calls]
        for backend in idle:
            self._close(backend)

    def _close(self, backend: Backend) -> None:
        task = asyncio.get_running_loop().create_task(backend.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if self.failed is None or self.failed.done() or task.cancelled() or all(s.inbox.closed for s in self.stages):
            return
        error = RuntimeError(f"the run loop of {task.get_name()} ended")
        error.__cause__ = task.exception()
        self.failed.set_exception(error)
