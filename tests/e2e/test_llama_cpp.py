"""A model file served by a daemon with two shards: one process of llama.cpp for both, that may die."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tests.local_models import tiny_gguf
from tests.process.daemon import COMMAND, ROOT, Daemon, alive, chat, configured, gone, serving, started

pytestmark = pytest.mark.slow
HOW_TO = ROOT / "docs" / "how-to" / "run-a-gguf.md"
SERVER = "shards = 2\nrestart_limit = 2"
ECHO = '[[workers]]\nname = "echo"\nkind = "echo"\n[[routes]]\nname = "echo"\nworker = "echo"\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("model"))


def worker(gguf: Path, name: str = "tiny", more: str = "") -> str:
    return (
        f'[[workers]]\nname = "{name}"\nkind = "llama-cpp"\ngguf = "{gguf}"\ncontext_tokens = 2048\n'
        f"threads = 1\n{more}\n"
        f'[[routes]]\nname = "{name}"\nworker = "{name}"\n'
    )


async def asked(daemon: Daemon, route: str = "tiny", **fields: object) -> tuple[int, str, dict[str, str]]:
    """Status, text or error message, and headers; over a connection of its own."""
    body = {**chat("w1", model=route), "max_tokens": 4, **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{daemon.address}/v1/chat/completions", json=body) as response,
    ):
        answer = await response.json()
        text = answer["choices"][0]["message"]["content"] if response.status == 200 else answer["error"]["message"]
        return response.status, text, dict(response.headers)


async def until_served(daemon: Daemon, route: str = "tiny", within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while (await asked(daemon, route))[0] != 200:
            await asyncio.sleep(0.02)


async def process(daemon: Daemon, name: str = "tiny") -> dict[str, object] | None:
    found = [one for one in (await daemon.status())["processes"] if one["name"] == f"model {name}"]
    return found[0] if found else None


async def test_both_shards_answer_by_one_process_that_may_die(model, tmp_path):
    async with serving(configured(tmp_path, worker(model) + ECHO, server=SERVER)) as daemon:
        await until_served(daemon)
        shards = {}
        async with asyncio.timeout(10):
            while len(shards) < 2:
                status, text, headers = await asked(daemon)
                assert status == 200
                shards[headers["X-Headgate-Shard"]] = text
        first = await process(daemon)
        assert first is not None
        assert (first["state"], first["restarts"]) == ("ready", 0)

        broken = await killed_in_the_middle(daemon, first["pid"])
        assert any('"error"' in line for line in broken)
        assert "[DONE]" not in broken[-1]
        began = time.monotonic()
        await until_served(daemon)
        assert time.monotonic() - began < 8  # about half a second on a machine with nothing else to do
        second = await process(daemon)
        assert second is not None
        assert (second["state"], second["restarts"]) == ("ready", 1)
        assert (await asked(daemon, "echo"))[0] == 200

        pids = await daemon.pids()
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert await gone(pids.values(), 1.0)
        assert not daemon.logged("process_killed")


async def killed_in_the_middle(daemon: Daemon, pid: int) -> list[str]:
    """The rest of a stream whose model dies."""
    body = {**chat("w1", model="tiny", stream=True), "max_tokens": 1900}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{daemon.address}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200
        await response.content.readline()
        os.kill(pid, signal.SIGKILL)
        return [line for line in (await response.content.read()).decode().splitlines() if line]


async def test_a_broken_file_costs_its_own_route_only_and_a_reload_brings_another(model, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes()[:3000])
    path = configured(tmp_path, worker(broken, more="retries = 0") + ECHO, server=SERVER)
    async with serving(path) as daemon:
        async with asyncio.timeout(10):
            while not daemon.logged("process_given_up"):
                await asyncio.sleep(0.02)
        (line, *_) = daemon.logged("process_failed")
        assert (line["process"], line["level"]) == ("model tiny", "error")
        assert line["because"].startswith("llama.cpp cannot load it: gguf")
        status, message, _ = await asked(daemon)
        assert status in (502, 503)
        assert "llama.cpp cannot load it" in message
        assert str(broken) not in message
        assert (await asked(daemon, "echo"))[0] == 200

        configured(tmp_path, worker(broken) + worker(model, "good") + ECHO, server=SERVER)
        daemon.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while not daemon.logged("reload_applied"):
                await asyncio.sleep(0.02)
        assert daemon.logged("reload_applied")[0]["restart"] == []
        await until_served(daemon, "good")
        good = await process(daemon, "good")
        assert good is not None

        configured(tmp_path, ECHO, server=SERVER)
        daemon.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await process(daemon, "good") is not None or await process(daemon) is not None:
                await asyncio.sleep(0.02)
        assert not alive(good["pid"])
        assert (await asked(daemon, "echo"))[0] == 200


async def test_the_how_to_page(tmp_path):
    """Its configuration and its commands, in its order; the ports are others."""
    page = HOW_TO.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (settings,) = [text for kind, text in blocks if kind == "toml"]
    commands = [line for kind, text in blocks if not kind for line in text.splitlines()]
    write = next(line for line in commands if "tiny_llama" in line)
    serve = commands.index("headgate serve")
    before = [line for line in commands[:serve] if line.startswith("headgate ")]
    after = [line for line in commands[serve + 1 :] if line.startswith("headgate ")]
    assert (before, len(after)) == (["headgate check"], 2)

    (tmp_path / "pipeline.toml").write_text(settings)
    environment = {"HEADGATE__SERVER__PORT": "0", "HEADGATE__SERVER__SHARDS": "1", "HEADGATE__ADMIN__PORT": "0"}
    environment["HEADGATE__SERVER__DATA_DIR"] = str(tmp_path / "data")
    await ran(write.replace(".venv/bin/python", sys.executable), tmp_path, {"PYTHONPATH": str(ROOT)})
    for line in before:
        await ran(line, tmp_path, environment)
    async with started(tmp_path / "pipeline.toml", **environment) as daemon:
        await daemon.announced()
        async with asyncio.timeout(10):
            while "model local" not in [line.get("name") for line in daemon.logged("process_ready")]:
                await asyncio.sleep(0.02)
        answer, status = [await ran(line, tmp_path, environment) for line in after]
    assert answer.split()
    assert re.search(r"model local\s+ready", status)


async def ran(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command of the page prints."""
    if line.startswith("headgate "):
        line = f'{sys.executable} -c "{COMMAND}" {line.removeprefix("headgate ")}'
    done = await asyncio.to_thread(
        subprocess.run, line, shell=True, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout
