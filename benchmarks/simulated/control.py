"""The control interface of a replica: what it is set to, what it counted, request by request."""

import time
from typing import Any

import msgspec
from aiohttp import web

from benchmarks.simulated.asked import error
from benchmarks.simulated.replica import Replica, clock
from benchmarks.simulated.settings import changed
from config.errors import ConfigError


class Control:
    """`urls` are those of all replicas, this one's is the `index`-th."""

    def __init__(self, replica: Replica, index: int, urls: list[str]) -> None:
        self._slots = replica.slots
        self._index = index
        self._urls = urls
        replica.routes["/sim"] = {"GET": self._show, "PATCH": self._change}
        replica.routes["/sim/reset"] = {"POST": self._reset}
        replica.routes["/sim/runs/"] = {"GET": self._run}

    async def _show(self, _: web.BaseRequest) -> web.Response:
        slots = self._slots
        return _json(
            {
                "service": slots.service,
                "replica": self._index,
                "replicas": self._urls,
                "counts": slots.log.counts,
                "in_flight": slots.in_flight,
                "waiting": slots.waiting,
            }
        )

    async def _change(self, request: web.BaseRequest) -> web.Response:
        try:
            values = msgspec.json.decode(await request.read(), type=dict[str, Any])
            self._slots.change(changed(self._slots.service, values))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            return error(400, f"expected an object of settings: {problem}", "invalid_request")
        except ConfigError as refused:
            return _refusal(refused)
        return await self._show(request)

    async def _reset(self, request: web.BaseRequest) -> web.Response:
        self._slots.reset()
        return await self._show(request)

    async def _run(self, request: web.BaseRequest) -> web.Response:
        """Moments are told by the wall clock; a run that is not known has no requests."""
        run = self._slots.log.run(request.path.removeprefix("/sim/runs/"))
        offset = time.time() - clock()
        return _json({"counts": run.counts, "rows": list(run.rows(offset)), "left_out": run.left_out})


def _refusal(refused: ConfigError) -> web.Response:
    fields = [
        {"field": one.path, "found": one.found, "expected": one.expected, "hint": one.hint} for one in refused.problems
    ]
    message = "; ".join(f"{one.path}: found {one.found}, expected {one.expected}" for one in refused.problems)
    told = {"message": message, "type": "invalid_request_error", "param": fields[0]["field"], "code": "invalid_value"}
    return _json({"error": told, "problems": fields}, status=400)


def _json(data: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")
