"""A daemon that is killed again and again while it executes runs: each run ends right, and what was done is not done
again."""

import asyncio
import os
import random
import signal
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from pipeline.workflow.client import WorkflowApiError, WorkflowClient
from tests.process.daemon import Daemon, configured, started

pytestmark = pytest.mark.slow

KILLS = 50
RUNS = 200

WORKFLOW = """
name: chaos
version: "1"
inputs:
  n: {{type: integer}}
steps:
  - id: fetch
    type: action
    action: http_request
    url: "{url}/fetch/{{{{ inputs.n }}}}"
    retry: {{max_attempts: 5, initial_delay_ms: 20}}
  - id: say
    type: llm
    route: echo
    prompt: "number {{{{ inputs.n }}}} of {{{{ steps.fetch.value.body.n }}}}"
  - id: each
    type: map
    items: "{{{{ [1, 2, 3] }}}}"
    max_concurrency: 2
    steps:
      - id: post
        type: action
        action: webhook
        url: "{url}/post/{{{{ inputs.n }}}}/{{{{ item }}}}"
        body: {{said: "{{{{ steps.say.text }}}}"}}
  - id: last
    type: action
    action: webhook
    url: "{url}/last/{{{{ inputs.n }}}}"
    body: {{}}
    depends_on: [each]
outputs:
  said: "{{{{ steps.say.text }}}}"
  posted: "{{{{ steps.each.value | length }}}}"
"""


class Host:
    """What the runs call. Remembers when each call with a key came."""

    def __init__(self) -> None:
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.paths: dict[str, set[str]] = defaultdict(set)
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        self.calls[key].append(time.time())
        self.paths[request.path].add(key)
        await asyncio.sleep(random.uniform(0.01, 0.15))
        number = request.path.split("/")[2]
        return web.json_response({"n": int(number)})


def kill(daemon: Daemon) -> None:
    """The daemon and all its processes at once, as when the machine loses power over them."""
    family = [daemon.process.pid]
    with suppress(OSError, ValueError):
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text()
        family += [int(pid) for pid in children.split()]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Chaos:
    """Starts runs until there are enough, whatever becomes of the daemon meanwhile."""

    def __init__(self) -> None:
        self.ids: dict[int, str] = {}

    async def life(self, url: str, many: int) -> None:
        """Some more runs, with the same keys for those of which nothing is known."""
        async with WorkflowClient(url, patience=0.5, timeout=5.0) as client:
            for number in range(min(RUNS, max(self.ids, default=-1) + 1 + many)):
                if number not in self.ids:
                    with suppress(WorkflowApiError):
                        run = await client.start("chaos@1", {"n": number}, idempotency_key=f"run-{number}")
                        self.ids[number] = run.id


@pytest.mark.timeout(300)
async def test_a_daemon_that_is_killed_again_and_again_finishes_every_run_once(tmp_path: Path):
    async with Host() as host:
        more = '[workflows]\nhosts = ["127.0.0.1"]\n[[workers]]\nname = "echo"\nkind = "echo"\n'
        path = configured(tmp_path, more + '[[routes]]\nname = "echo"\nworker = "echo"\n')
        chaos = Chaos()
        rng = random.Random(7)
        for life in range(KILLS):
            async with started(path) as daemon:
                await daemon.announced()
                assert daemon.address, daemon.stderr[-2000:]
                if not life:
                    await registered(daemon, host)
                starting = asyncio.ensure_future(chaos.life(daemon.address, RUNS // KILLS + 1))
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                kill(daemon)
                await daemon.ended()
                await asyncio.wait_for(starting, 30)
        async with started(path) as daemon:
            await daemon.announced()
            await daemon.until_ready()
            await chaos.life(daemon.address, RUNS)
            async with WorkflowClient(daemon.address) as client:
                runs = [await client.wait(chaos.ids[number]) for number in range(RUNS)]
    assert len(set(chaos.ids.values())) == RUNS
    for number, run in enumerate(runs):
        check(number, run, host)
    again = sum(len(times) > 1 for times in host.calls.values())
    assert again, "nothing was ever interrupted: the test shows nothing"


async def registered(daemon: Daemon, host: Host) -> None:
    await daemon.until_ready()
    async with WorkflowClient(daemon.address) as client:
        await client.register(WORKFLOW.format(url=host.url))


def check(number: int, run: Any, host: Host) -> None:
    """It ended as it should; each call was made with one key, and not again after its step had completed."""
    assert run.state == "completed", (number, run)
    assert run.outputs == {"said": f"number {number} of {number}", "posted": 3}
    ended = {step.path: step.ended_at for step in run.steps}
    calls = {f"/fetch/{number}": "fetch", f"/last/{number}": "last"}
    calls |= {f"/post/{number}/{item}": f"each[{item - 1}]/post" for item in (1, 2, 3)}
    for called, step in calls.items():
        (key,) = host.paths[called]
        assert max(host.calls[key]) <= ended[step], (number, step)
