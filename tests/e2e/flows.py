"""Workflows in daemons: a host that runs call, definitions, and what tests ask of a daemon's journal."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from pipeline.workflow.client import RunEvent, WorkflowClient
from tests.process.daemon import Daemon, configured

SERVED = """
[workflows]
hosts = ["127.0.0.1"]
lease_ms = {lease}
{more}

[[workers]]
name = "echo"
kind = "echo"

[[routes]]
name = "echo"
worker = "echo"
{routes}
"""


def daemon_of(folder: Path, *, lease: int = 1000, more: str = "", routes: str = "", server: str = "") -> Path:
    """A configuration with workflows that may call this machine."""
    return configured(folder, SERVED.format(lease=lease, more=more, routes=routes), server=server)


class Host:
    """What steps call: `/{name}/…` is answered after `seconds`, or, for held names, when it is let go. Remembers the
    keys of the calls to each path, as they came."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: dict[str, list[str]] = defaultdict(list)
        self.came = asyncio.Condition()
        self.held: dict[str, asyncio.Event] = {}
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{name}{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for gate in self.held.values():
            gate.set()
        await self._runner.cleanup()

    def hold(self, name: str) -> asyncio.Event:
        """Calls to `/{name}/…` are answered once it is set."""
        gate = self.held[name] = asyncio.Event()
        return gate

    async def called(self, path: str, times: int = 1) -> None:
        async with asyncio.timeout(20), self.came:
            await self.came.wait_for(lambda: len(self.calls[path]) >= times)

    async def _answer(self, request: web.Request) -> web.Response:
        async with self.came:
            self.calls[request.path].append(request.headers["Idempotency-Key"])
            self.came.notify_all()
        gate = self.held.get(request.match_info["name"])
        await (asyncio.sleep(self.seconds) if gate is None else gate.wait())
        return web.json_response({"path": request.path})


def chain(url: str, *, name: str = "chain", path: str = "call", route: str = "echo") -> dict[str, Any]:
    """A call, a prompt with what came of it, another call."""
    call = {"type": "action", "action": "webhook", "body": {}}
    return {
        "name": name,
        "version": "1",
        "inputs": {"n": {"type": "integer"}},
        "steps": [
            {"id": "first", **call, "url": f"{url}/{path}/{{{{ inputs.n }}}}/first"},
            {"id": "say", "type": "llm", "route": route, "prompt": "{{ steps.first.value.body.path }}"},
            {"id": "last", **call, "url": f"{url}/{path}/{{{{ inputs.n }}}}/last", "depends_on": ["say"]},
        ],
        "outputs": {"said": "{{ steps.say.text }}"},
    }


async def seen(address: str, run_id: str, key: str | None = None) -> list[RunEvent]:
    """Everything that a watcher of the run is told, until it has ended."""
    async with WorkflowClient(address, key, patience=20) as client, aclosing(client.events(run_id)) as events:
        return [event async for event in events if event.number]


def whole(events: list[RunEvent]) -> bool:
    """Each entry once and in order, up to a run that completed."""
    numbers = [event.number for event in events]
    return numbers == list(range(1, len(numbers) + 1)) and events[-1].state == "completed"


async def request(
    daemon: Daemon, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Over a connection of its own: any shard may get it."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, daemon.address + path, json=body, headers=headers) as response,
    ):
        answer = await response.json() if response.content_type == "application/json" else await response.text()
        return response.status, answer, dict(response.headers)


async def counted(daemon: Daemon) -> dict[str, float]:
    """What the daemon counts of runs and steps: `runs completed`, `runs_submitted`, …"""
    found: dict[str, float] = {}
    for (name, labels), value in (await daemon.metrics()).items():
        if name.startswith("headgate_workflow_"):
            short = name.removeprefix("headgate_workflow_").removesuffix("_total")
            found[" ".join([short, *(text for _, text in sorted(labels))])] = value
    return found


async def journalled(client: WorkflowClient) -> dict[str, float]:
    """The same, as the journal has it: of the client's runs."""
    found: Counter[str] = Counter()
    async for run in client.runs():
        found.update([f"runs {run.state.value}", "runs_submitted"])
        found.update(f"steps {step.state.value}" for step in (await client.run(run.id)).steps)
    return dict(found)
