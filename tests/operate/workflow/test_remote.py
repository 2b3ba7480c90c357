"""The commands for runs of a daemon, against a real one."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from tests.process.daemon import configured, started

COMMAND = Path(sys.executable).parent / "headgate"
ROOT = Path(__file__).parents[3]
APPROVAL = """
name: approval
steps:
  - {id: draft, type: llm, route: echo, prompt: a draft}
  - {id: ok, type: wait, event: go, depends_on: [draft]}
  - {id: branch, type: branch, cases: [{when: ok.yes, then: publish}], default: drop}
  - {id: publish, type: llm, route: echo, prompt: "{{ draft }}, published"}
  - {id: drop, type: llm, route: echo, prompt: dropped}
outputs: {text: "{{ publish or drop }}"}
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("HEADGATE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "approval.yaml").write_text(APPROVAL)


def run(*arguments):
    return CliRunner().invoke(main, ["workflow", *map(str, arguments)])


class Commands:
    def __init__(self, address):
        self._address = address

    async def __call__(self, command, *arguments):
        return await asyncio.to_thread(run, command, *arguments, "--url", self._address)

    async def good(self, command, *arguments):
        result = await self(command, *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def until(self, run_id, state):
        async with asyncio.timeout(10):
            while True:
                view = json.loads((await self("status", run_id, "--json")).stdout)
                if view["state"] == state:
                    return view
                await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_run_from_its_start_to_its_end_and_again(tmp_path):
    """One daemon for all: it is its start that takes time."""
    async with started(configured(tmp_path)) as daemon:
        await daemon.announced()
        command = Commands(daemon.address)
        start = ("run", "approval.yaml", "--detach", "--idempotency-key", "k1")
        run_id = (await command.good(*start)).strip()
        assert (await command.good(*start)).strip() == run_id
        view = await command.until(run_id, "waiting")
        assert {step["path"]: step["state"] for step in view["steps"]} == {"draft": "completed", "ok": "waiting"}
        assert "for the signal 'go'" in await command.good("status", run_id)

        assert await command.good("pause", run_id) == f"pause: run {run_id} is paused\n"
        assert (await command("pause", run_id)).exit_code in {0, 1}
        assert run_id in (await command.good("resume", run_id))
        await command.until(run_id, "waiting")
        assert "has been sent 'go'" in await command.good("signal", run_id, "go", '{"yes": true}')
        watched = await command("watch", run_id)
        assert (watched.exit_code, json.loads(watched.stdout)) == (0, {"text": "a draft, published"})
        assert "publish: completed: a draft, published" in watched.stderr
        assert "drop: skipped" in watched.stderr
        events = [json.loads(line) for line in (await command.good("watch", run_id, "--json")).splitlines()]
        assert [event["number"] for event in events] == list(range(1, len(events) + 1))

        mermaid = await command.good("graph", "approval.yaml", "--run", run_id)
        assert re.search(r'"<b>drop</b>.*:::skipped', mermaid)
        assert re.search(r'"<b>publish</b>.*:::completed', mermaid)

        assert run_id in (await command.good("retry", run_id, "--step", "ok"))
        await command.until(run_id, "waiting")
        assert "is cancelled" in await command.good("cancel", run_id, "--because", "no time")
        status = await command("status", run_id)
        assert (status.exit_code, "cancelled" in status.stdout) == (4, True)

        await _lists(command, run_id)
        await _refusals(command, daemon, tmp_path)


async def _lists(command, run_id):
    listed = json.loads(await command.good("list", "--json"))
    assert [workflow["name"] for workflow in listed["workflows"]] == ["approval"]
    assert [found["id"] for found in listed["runs"]] == [run_id]
    assert json.loads(await command.good("list", "--json", "--state", "completed"))["runs"] == []
    assert json.loads(await command.good("list", "--json", "--workflow", "other")) == {"workflows": [], "runs": []}
    assert "No workflow 'other' is registered" in await command.good("list", "--workflow", "other")
    text = await command.good("list")
    assert run_id in text
    assert "approval@1" in text


async def _refusals(command, daemon, folder):
    for asked in (("status", "run_x"), ("watch", "run_x"), ("cancel", "run_x"), ("run", "nobody")):
        result = await command(*asked)
        assert (result.exit_code, result.stdout, "Traceback" in result.stderr) == (2, "", False), result.output
    (folder / "approval.yaml").write_text(APPROVAL.replace("a draft", "another"))
    changed = await command("run", "approval.yaml")
    assert changed.exit_code == 1
    assert "registered with other content" in changed.stderr
    assert "write another `version:`" in changed.stderr
    await _registers(command, folder)
    (folder / "route.yaml").write_text("name: r\nsteps:\n  - {id: a, type: llm, route: mine, prompt: x}\n")
    unknown = await command("run", "route.yaml")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("Error: route.yaml:3:")
    await _interrupted(daemon)


async def _registers(command, folder):
    """What is called comes first, whatever the order; without it the message says what to do."""
    (folder / "outer.yaml").write_text(
        "name: outer\ninputs: {q: {type: string}}\nsteps:\n  - {id: a, type: workflow, workflow: inner}\n"
    )
    (folder / "inner.yaml").write_text("name: inner\nsteps:\n  - {id: a, type: llm, route: echo, prompt: x}\n")
    alone = await command("register", "outer.yaml")
    assert (alone.exit_code, "headgate workflow register FILE" in alone.stderr) == (2, True)
    assert await command.good("register", "outer.yaml", "inner.yaml") == (
        "inner.yaml: inner@1 is registered\nouter.yaml: outer@1 is registered\n"
    )
    (folder / "inner.yaml").unlink()  # what is registered there is enough
    missing = await command("run", "outer.yaml")
    assert (missing.exit_code, missing.stderr) == (2, "Error: inputs.q: is missing\n")
    begun = (await command.good("run", "outer.yaml", "--input", "q=x", "--detach")).strip()
    assert "of outer@1" in (await command("status", begun)).stdout
    other = await command("graph", "approval.yaml", "--run", begun)
    assert (other.exit_code, other.stdout) == (2, "")
    assert f"run {begun} is one of outer@1, not of approval" in other.stderr


async def _again_and_again(process):
    """As people press Ctrl-C."""
    while True:
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(10)


async def _interrupted(daemon):
    """Whoever watches goes, the run stays."""
    pipe = asyncio.subprocess.PIPE
    arguments = ["workflow", "run", "approval@1", "--url", daemon.address]
    process = await asyncio.create_subprocess_exec(str(COMMAND), *arguments, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(40):
        while b"waits for the signal" not in await process.stderr.readline():
            pass
        again = asyncio.ensure_future(_again_and_again(process))
        _, err = await process.communicate()
        again.cancel()
    assert process.returncode == 130
    (run_id,) = re.findall(r"headgate workflow watch (run_\w+)", err.decode())
    state = json.loads((await asyncio.to_thread(run, "status", run_id, "--json", "--url", daemon.address)).stdout)
    assert state["state"] == "waiting"


@pytest.mark.slow
def test_nobody_there():
    result = run("list", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith("Error: nothing answers at http://127.0.0.1:1: start it with")


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x", "http://"])
def test_no_address(url):
    result = run("list", "--url", url)
    assert (result.exit_code, "is no address" in result.stderr) == (2, True)
