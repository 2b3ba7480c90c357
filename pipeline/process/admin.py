"""The admin API: what operators see of a running daemon and change about it."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import structlog
from aiohttp import web

from config.edit import NotConfigured, drain_worker, put_route, put_worker, remove_route, remove_worker, weigh
from config.schema import AnyWorker, Config, LoggingSection, RouteSection
from pipeline.observe.exposition import CONTENT_TYPE
from pipeline.observe.overview import Counters
from pipeline.process.admin_changes import Changes
from pipeline.process.admin_errors import BadCall, Conflict, NotThere
from pipeline.process.admin_http import Answer, Call, Endpoint, flag, no_body, no_query, table_in
from pipeline.process.admin_types import Changed, Done
from pipeline.process.admin_usage import usage
from pipeline.process.admin_views import Views
from pipeline.process.control import Control

LEVELS: tuple[str, ...] = get_args(LoggingSection.__annotations__["level"])

log = structlog.get_logger()


class Admin:
    """The endpoints. `control` and `counters` are the supervisor's; `address` tells where the API can be reached."""

    def __init__(self, control: Control, counters: Counters, address: Callable[[], str]) -> None:
        self._control = control
        self._views = Views(control, counters, address)
        self._changes = Changes(control)

    def endpoints(self) -> dict[tuple[str, str], Endpoint]:
        return {
            ("GET", "/status"): self._status,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/shards"): self._shards,
            ("GET", "/stages"): self._stages,
            ("GET", "/config"): self._config,
            ("GET", "/usage"): self._usage,
            ("GET", "/workers"): self._workers,
            ("GET", "/workers/{name}"): self._worker,
            ("PUT", "/workers/{name}"): self._put_worker,
            ("DELETE", "/workers/{name}"): self._remove_worker,
            ("POST", "/workers/{name}/drain"): partial(self._drain_worker, drain=True),
            ("POST", "/workers/{name}/undrain"): partial(self._drain_worker, drain=False),
            ("GET", "/routes"): self._routes,
            ("GET", "/routes/{name}"): self._route,
            ("PUT", "/routes/{name}"): self._put_route,
            ("DELETE", "/routes/{name}"): self._remove_route,
            ("PATCH", "/routes/{name}/weights"): self._weigh,
            ("POST", "/drain"): self._drain,
            ("POST", "/reload"): self._reload,
            ("POST", "/replace"): self._replace,
            ("PUT", "/log-level"): self._set_level,
        }

    async def _status(self, call: Call) -> Answer:
        no_query(call)
        return self._views.status()

    async def _metrics(self, call: Call) -> Answer:  # noqa: ARG002 - scrapers may have queries of their own
        return web.Response(body=self._control.metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _shards(self, call: Call) -> Answer:
        no_query(call)
        return self._views.shards()

    async def _stages(self, call: Call) -> Answer:
        no_query(call)
        return self._views.stages()

    async def _config(self, call: Call) -> Answer:
        no_query(call)
        return await asyncio.to_thread(self._views.config)  # a large one has a million keys

    async def _usage(self, call: Call) -> Answer:
        return usage(call, self._control.usage(), self._views.status().uptime_s)

    async def _workers(self, call: Call) -> Answer:
        no_query(call)
        return self._views.workers()

    async def _worker(self, call: Call) -> Answer:
        no_query(call)
        try:
            return self._views.worker(call.name)
        except NotConfigured as error:
            raise NotThere("unknown_worker", str(error)) from error

    async def _routes(self, call: Call) -> Answer:
        no_query(call)
        return self._views.routes()

    async def _route(self, call: Call) -> Answer:
        no_query(call)
        try:
            return self._views.route(call.name)
        except NotConfigured as error:
            raise NotThere("unknown_route", str(error)) from error

    async def _put_worker(self, call: Call) -> Answer:
        table = _named(call, "a table of [[workers]]")

        def change(config: Config) -> Config:
            _expect(call, "worker", config.workers)
            return put_worker(config, call.name, table)

        return await self._change(f"put worker {call.name}", change)

    async def _put_route(self, call: Call) -> Answer:
        table = _named(call, "a table of [[routes]]")

        def change(config: Config) -> Config:
            _expect(call, "route", config.routes)
            return put_route(config, call.name, table)

        return await self._change(f"put route {call.name}", change)

    async def _remove_worker(self, call: Call) -> Answer:
        no_query(call, "force")
        no_body(call)
        force = flag(call, "force")
        return await self._change(
            f"remove worker {call.name}", lambda config: remove_worker(config, call.name, force=force)
        )

    async def _remove_route(self, call: Call) -> Answer:
        no_query(call)
        no_body(call)
        return await self._change(f"remove route {call.name}", lambda config: remove_route(config, call.name))

    async def _drain_worker(self, call: Call, *, drain: bool) -> Answer:
        no_query(call)
        no_body(call)
        what = "drain" if drain else "undrain"
        return await self._change(
            f"{what} worker {call.name}", lambda config: drain_worker(config, call.name, drain=drain)
        )

    async def _weigh(self, call: Call) -> Answer:
        no_query(call)
        weights = table_in(call, "weights by the names of workers")
        if not weights:
            raise BadCall("missing_required_parameter", "Name at least one worker, with its weight")
        return await self._change(f"weigh route {call.name}", lambda config: weigh(config, call.name, weights))

    async def _reload(self, call: Call) -> Answer:
        no_query(call)
        no_body(call)
        done = await self._changes.reload()
        log.info("admin_change", change="reload", keys=len(done.changed), restart=len(done.restart))
        return done

    async def _replace(self, call: Call) -> Answer:
        no_query(call)
        no_body(call)
        await self._changes.replace()
        log.info("admin_change", change="replace")
        return Done("replaced")

    async def _drain(self, call: Call) -> Answer:
        no_query(call)
        no_body(call)
        log.info("admin_change", change="drain")
        self._control.drain()
        return Done("draining")

    async def _set_level(self, call: Call) -> Answer:
        no_query(call)
        body = table_in(call, 'such as {"level": "debug"}')
        for key in body:
            if key != "level":
                raise BadCall("unknown_parameter", f"Unknown key {key[:80]!r}: there is level", param=key[:80])
        level = body.get("level")
        if level not in LEVELS:
            raise BadCall("invalid_value", f"level must be one of {', '.join(LEVELS)}", param="level")
        self._control.set_level(level)
        log.info("admin_change", change=f"log level {level}")
        return Done(f"level {level}, beside the configuration, until that is read again")

    async def _change(self, what: str, change: Callable[[Config], Config]) -> Changed:
        done = await self._changes.edit(change)
        log.info("admin_change", change=what, keys=len(done.changed), restart=len(done.restart))
        return done


def _named(call: Call, what: str) -> dict[str, Any]:
    """The table in the body. The name is in the path; the body may repeat it. Raises BadCall."""
    no_query(call)
    table = table_in(call, what)
    if not table:
        raise BadCall("missing_required_parameter", f"The body must be {what}")
    if table.get("name", call.name) != call.name:
        raise BadCall("invalid_value", "name must be the one in the path, or be left out", param="name")
    return table


def _expect(call: Call, kind: str, sections: Sequence[AnyWorker | RouteSection]) -> None:
    """`If-None-Match: *` adds and never replaces, `If-Match: *` the other way round (RFC 9110, 13.1). Raises
    Conflict, NotThere."""
    there = any(section.name == call.name for section in sections)
    if there and call.headers.get("If-None-Match") == "*":
        raise Conflict("exists", f"There is a {kind} {call.name!r} already")
    if not there and call.headers.get("If-Match") == "*":
        raise NotThere(f"unknown_{kind}", f"There is no {kind} {call.name!r} to replace")
