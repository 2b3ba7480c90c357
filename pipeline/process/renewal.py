"""A shard's part in a change of the configuration: makes ready, then changes all at once between two requests."""

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple

import structlog

from config.errors import ConfigError, Problem
from config.load import decode
from config.schema import Config
from pipeline.edge.app import EdgeServer
from pipeline.observe.layout import Counted, MetricsLayout
from pipeline.process import demand
from pipeline.process.link import Abort, Commit, Committed, Message, Prepare, Prepared
from pipeline.process.tls import Tls, pair_of
from pipeline.wiring import Pipeline, Renewed

log = structlog.get_logger()


class _Ready(NamedTuple):
    number: int
    config: Config
    layout: list[Counted]
    pipeline: Renewed
    certificate: ssl.SSLContext | None


class Renewal:
    """`send` answers the supervisor. `follow` gets each new configuration once pipeline and edge run it, for what else
    depends on it. `tls` is the public listener's, None where it has none."""

    def __init__(
        self,
        pipeline: Pipeline,
        edge: EdgeServer,
        layout: MetricsLayout,
        tls: Tls | None,
        *,
        send: Callable[[Message], None],
        follow: Callable[[Config], None],
    ) -> None:
        self._pipeline = pipeline
        self._edge = edge
        self._layout = layout
        self._tls = tls
        self._send = send
        self._follow = follow
        self._ready: _Ready | None = None
        self._discarding: set[asyncio.Task[None]] = set()

    def prepare(self, message: Prepare) -> None:
        """Builds what is new and answers with what is wrong. One thing is prepared at a time: the last."""
        self._discard()
        problems: list[Problem] = []
        try:
            self._ready = self._built(message)
        except ConfigError as error:
            problems += error.problems
        except Exception as error:  # a bug in building is one refused change, not the end of a shard that serves
            log.exception("reload_broke")
            problems.append(Problem("configuration", f"what breaks a shard: {type(error).__name__}", "see the log"))
        self._send(Prepared(message.number, problems))

    def commit(self, message: Commit) -> None:
        """Does nothing where nothing was prepared under this number."""
        ready, self._ready = self._ready, None
        if ready is None or ready.number != message.number:
            return
        for step in (*ready.layout, demand.counted(ready.config)):  # before a request of a new route can be counted
            self._layout.extend(step)  # does nothing for what is known
        self._pipeline.apply(ready.pipeline)
        self._edge.reconfigure(ready.config.server)
        if self._tls is not None and ready.certificate is not None:
            self._tls.use(ready.certificate)
        self._follow(ready.config)
        self._send(Committed(message.number))

    def abort(self, message: Abort) -> None:
        if self._ready is not None and self._ready.number == message.number:
            self._discard()

    async def aclose(self) -> None:
        """Closes what was prepared and never run."""
        self._discard()
        await asyncio.gather(*self._discarding, return_exceptions=True)

    def _built(self, message: Prepare) -> _Ready:
        config = decode(message.config)
        pair = None if self._tls is None else pair_of(config.server)
        certificate = None if self._tls is None or pair is None else self._tls.prepare(pair)
        return _Ready(message.number, config, message.layout, self._pipeline.prepare(config), certificate)

    def _discard(self) -> None:
        if self._ready is not None:
            task = asyncio.get_running_loop().create_task(self._pipeline.discard(self._ready.pipeline))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)
        self._ready = None
