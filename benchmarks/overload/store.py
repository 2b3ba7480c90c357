"""A vector store that takes its time: what a collection needs of Qdrant's HTTP interface, and each search is slow.

So clients can leave while their passages are looked for.
"""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

_START_LIMIT = 10.0


class SlowStore:
    """As a context, serves on a free port in a thread of its own. `searches` came, `cut` of them lost their client."""

    def __init__(self, seconds: float) -> None:
        self.url = ""
        self.searches = 0
        self.cut = 0
        self._seconds = seconds
        self._made: dict[str, dict[str, Any]] = {}
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="slow store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_LIMIT):
            raise TimeoutError(f"the slow store did not start within {_START_LIMIT:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_get("/collections/{name}/exists", self._exists)
        app.router.add_put("/collections/{name}", self._make)
        app.router.add_put("/collections/{name}/index", self._done)
        app.router.add_get("/collections/{name}", self._describe)
        app.router.add_post("/collections/{name}/points/query", self._search)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _exists(self, request: web.Request) -> web.Response:
        return _result({"exists": request.match_info["name"] in self._made})

    async def _make(self, request: web.Request) -> web.Response:
        self._made[request.match_info["name"]] = msgspec.json.decode(await request.read(), type=dict[str, Any])
        return _result(True)

    async def _done(self, _request: web.Request) -> web.Response:
        return _result({"operation_id": 0, "status": "completed"})

    async def _describe(self, request: web.Request) -> web.Response:
        """With what it was made from, and the rest as an empty collection has it."""
        made = self._made.get(request.match_info["name"])
        if made is None:
            return web.json_response({"status": {"error": "Not found"}, "time": 0.0}, status=404)
        config = {
            "params": {name: made[name] for name in ("vectors", "sparse_vectors") if name in made},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": made.get("metadata"),
        }
        return _result(
            {
                "status": "green",
                "optimizer_status": "ok",
                "segments_count": 1,
                "config": config,
                "payload_schema": {},
            }
        )

    async def _search(self, request: web.Request) -> web.Response:
        await request.read()
        self.searches += 1
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return _result({"points": []})


def _result(result: object) -> web.Response:
    return web.json_response({"result": result, "status": "ok", "time": 0.0})
