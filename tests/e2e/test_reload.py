"""A new configuration in a running daemon with two shards: everywhere or nowhere, and without a request lost."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pipeline.policy.access import key_hash
from tests.process.daemon import Daemon, chat, configured, serving
from tests.servers import ScriptedBackend, completion, says, whole

pytestmark = pytest.mark.slow

ROUTE = '[[workers]]\nname = "{0}"\nkind = "echo"\n[[routes]]\nname = "{0}"\nworker = "{0}"\n'
SERVER = "shards = 2\nanonymous = true\n"


def key(number: int, more: str = "") -> str:
    return f'[[keys]]\nname = "key-{number}"\nhash = "{key_hash(f"hg_{number}")}"\n{more}'


async def told(daemon: Daemon, event: str, before: int = 0) -> dict[str, Any]:
    """The next line of this event after so many of them."""
    async with asyncio.timeout(10):
        while len(daemon.logged(event)) <= before:
            await asyncio.sleep(0.02)
    return daemon.logged(event)[before]


async def statuses(daemon: Daemon, model: str) -> dict[str, set[int]]:
    """What each shard answers; asks over new connections until both have."""
    found: dict[str, set[int]] = {}
    for _ in range(100):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{daemon.address}/v1/chat/completions", json=chat(model=model)) as response,
        ):
            found.setdefault(response.headers["X-Headgate-Shard"], set()).add(response.status)
        if len(found) == 2:
            return found
    raise AssertionError(found)


async def test_one_bad_key_among_a_hundred_changes_nothing_on_any_shard_and_is_named(tmp_path):
    keys = [key(number) for number in range(100)]
    path = configured(tmp_path, ROUTE.format("old") + "".join(keys), server=SERVER)
    async with serving(path) as daemon:
        keys[57] = key(57, "weight = -1.0\n")
        configured(tmp_path, ROUTE.format("new") + "".join(keys), server=SERVER)
        daemon.signal(signal.SIGHUP)
        refused = await told(daemon, "reload_refused")
        assert [problem.partition(":")[0] for problem in refused["problems"]] == ["keys[57].weight"]
        assert await statuses(daemon, "old") == {"0": {200}, "1": {200}}
        assert await statuses(daemon, "new") == {"0": {404}, "1": {404}}
        keys[57] = key(57)
        configured(tmp_path, ROUTE.format("new") + "".join(keys), server=SERVER)
        daemon.signal(signal.SIGHUP)
        assert set((await told(daemon, "reload_applied"))["changed"]) == {
            *("workers[new]", "workers[old]", "routes[new]", "routes[old]")
        }
        assert await statuses(daemon, "old") == {"0": {404}, "1": {404}}
        assert await statuses(daemon, "new") == {"0": {200}, "1": {200}}


async def test_what_only_shards_find_changes_nothing_and_what_needs_a_restart_is_named(tmp_path):
    path = configured(tmp_path, ROUTE.format("old"), server=SERVER)
    wrong = 'template = "{{ nothing"\n[[workers]]\nname = "w"\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\n'
    async with serving(path) as daemon:
        configured(tmp_path, ROUTE.format("new") + wrong + 'api_key = "env:NOT_THERE"\n', server=SERVER)
        daemon.signal(signal.SIGHUP)
        refused = await told(daemon, "reload_refused")
        found = sorted(problem.partition(":")[0] for problem in refused["problems"])
        assert found == ["routes[0].template", "workers[1].api_key"]
        assert await statuses(daemon, "old") == {"0": {200}, "1": {200}}
        assert await statuses(daemon, "new") == {"0": {404}, "1": {404}}

        configured(tmp_path, ROUTE.format("old"), server=SERVER.replace("2", "3") + "max_body_bytes = 1024\n")
        daemon.signal(signal.SIGHUP)
        applied = await told(daemon, "reload_applied")
        assert (applied["changed"], applied["restart"]) == (["server.max_body_bytes"], ["server.shards"])
        async with aiohttp.ClientSession() as session:
            body = chat("x" * 2000, model="old")
            async with session.post(f"{daemon.address}/v1/chat/completions", json=body) as response:
                assert response.status == 413


async def test_reloads_under_load_lose_nothing(tmp_path):
    """Every one of them replaces the worker and renames another route."""
    text = '[[workers]]\nname = "w"\nkind = "echo"\ntokens_per_s = {0}\n[[routes]]\nname = "old"\nworker = "w"\n'
    path = configured(tmp_path, text.format(2000.0), server=SERVER)
    answers: Counter[int] = Counter()
    done = asyncio.Event()

    async def client(session: aiohttp.ClientSession, number: int, address: str) -> None:
        headers = {"X-Session-Id": f"session {number}"}
        while not done.is_set():
            body = chat("one two three four", model="old", stream=number % 2 == 0)
            async with session.post(f"{address}/v1/chat/completions", json=body, headers=headers) as response:
                data = await response.read()
                assert response.status == 200, data
                assert not body["stream"] or data.endswith(b"data: [DONE]\n\n")
                answers[response.status] += 1

    async with serving(path) as daemon, aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(client(session, number, daemon.address)) for number in range(8)]
        for number in range(5):
            configured(tmp_path, text.format(1000.0 + number) + ROUTE.format(f"other-{number}"), server=SERVER)
            daemon.signal(signal.SIGHUP)
            changed = (await told(daemon, "reload_applied", number))["changed"]
            assert "workers[w].tokens_per_s" in changed
            before = answers.total()
            async with asyncio.timeout(10):
                while answers.total() < before + 40:
                    await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*clients)
        assert not daemon.logged("process_died")


async def test_files_that_are_watched_are_picked_up_and_a_broken_one_is_only_told(tmp_path):
    template = tmp_path / "prompt.j2"
    template.write_text("Answer briefly.")
    async with ScriptedBackend(says(whole(completion("yes")))) as backend:
        text = (
            f'[[workers]]\nname = "w"\nkind = "openai"\nbase_url = "{backend.base_url}"\n'
            '[[routes]]\nname = "r"\nworker = "w"\ntemplate_file = "prompt.j2"\n'
        )
        path = configured(tmp_path, text, server=SERVER + "reload_on_change = true\n")
        async with serving(path) as daemon:
            assert await _system(daemon, backend) == "Answer briefly."
            _replace(template, "{% if %}")
            refused = await told(daemon, "reload_refused")
            assert [problem.partition(":")[0] for problem in refused["problems"]] == ["routes[0].template"]
            assert await _system(daemon, backend) == "Answer briefly."
            _replace(template, "Answer at length.")
            assert (await told(daemon, "reload_applied"))["changed"] == ["routes[r].template_file"]
            assert await _system(daemon, backend) == "Answer at length."


async def test_a_shard_that_starts_later_runs_what_is_in_force_by_then(tmp_path):
    path = configured(tmp_path, ROUTE.format("old"), server=SERVER)
    async with serving(path) as daemon:
        configured(tmp_path, ROUTE.format("new"), server=SERVER)
        daemon.signal(signal.SIGHUP)
        await told(daemon, "reload_applied")
        path.write_text("broken")  # it is not read again
        started = len(daemon.logged("process_ready"))
        for pid in [pid for name, pid in (await daemon.pids()).items() if name.startswith("shard")]:
            os.kill(pid, signal.SIGKILL)
        await told(daemon, "process_ready", started + 1)
        assert await statuses(daemon, "new") == {"0": {200}, "1": {200}}


def _replace(file: Path, text: str) -> None:
    """As editors do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def _system(daemon: Daemon, backend: ScriptedBackend) -> str:
    """The system message that the backend gets."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{daemon.address}/v1/chat/completions", json=chat(model="r")) as response,
    ):
        assert response.status == 200
        await response.read()
    asked = [exchange for exchange in backend.exchanges if exchange.body]  # whether it is well was asked without one
    system: str = asked[-1].json["messages"][0]["content"]
    return system
