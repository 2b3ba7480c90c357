"""Secrets that are planted wherever one may be, and looked for in everything that a running daemon says."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from config.load import load
from config.schema import AnyWorker
from config.secrets import references
from pipeline.process.desk import Credentials, Desk
from tests.process.daemon import ROOT, Daemon, alive, configured, started
from tests.servers import Exchange, ScriptedBackend, events, head, http_chunk, whole
from workers import registry
from workers.errors import WorkerUnavailable

MARK = "PLANTED"  # how each of them begins: a part of one is one too many
KINDS = ("openai", "anthropic", "cohere", "ollama")
VARIABLES = {f"{kind.upper()}_KEY": f'{MARK}-{kind}"\\/key-0123456789' for kind in KINDS} | {
    "ADMIN_TOKEN": f"{MARK}-admin-token-0123456789",
    "GRPC_KEY": f"{MARK}-grpc-key-0123456789",
    "QDRANT_KEY": f"{MARK}-qdrant-key-0123456789",
}
WORKER = """
[[workers]]
name = "{kind}"
kind = "{kind}"
base_url = "{url}"
model = "m"
api_key = "env:{variable}_KEY"
headers = {{ X-Gateway-Token = "file:{folder}/{kind}.token" }}
retries = 0
breaker_failures = 0
breaker_rate = 0.0

[[routes]]
name = "{kind}"
worker = "{kind}"
"""
REST = """
[[workers]]
name = "grpc"
kind = "grpc"
target = "127.0.0.1:9"
api_key = "env:GRPC_KEY"
retries = 0

[[routes]]
name = "grpc"
worker = "grpc"

[[routes]]
name = "docs"
worker = "openai"
collection = "far"
on_retrieval_failure = "fail"

[[collections]]
name = "far"
store = "qdrant"
url = "{url}"
api_key = "env:QDRANT_KEY"
embedder = "lexical"

[[routes]]
name = "own"
worker = "openai"
collection = "own"

[[collections]]
name = "own"
store = "memory"
embedder = "openai"
dimension = 2

[admin]
port = 0
token = "env:ADMIN_TOKEN"

[logging]
level = "debug"
prompts = true
"""


class Gossip:
    """A backend that says back every header it was sent, in whatever `way` is asked for."""

    def __init__(self) -> None:
        self.way = "401"
        self.heard: set[str] = set()

    async def __call__(self, exchange: Exchange) -> None:
        said = " ".join(exchange.headers.values())
        self.heard |= {value.removeprefix("Bearer ") for value in exchange.headers.values() if MARK in value}
        if self.way == "stream" and exchange.method == "POST":
            failed = {"error": {"message": said * 9, "type": "error"}, "type": "error"}
            await exchange.send(head(200) + http_chunk(events(failed, done=False)))
            exchange.close()
        elif self.way == "text":
            await exchange.send(whole((said * 40).encode(), 500, "text/plain"))
        elif self.way == "json":
            await exchange.send(whole({"detail": [{"msg": said * 9, "input": said}], "message": said * 9}, 400))
        elif self.way == "head":
            await exchange.send(whole(b"", 503, "text/plain", X_Said=said, Location=said, Retry_After=said))
        elif self.way == "ok":
            await exchange.send(whole({"error": said, said: said}, 200))
        else:
            refusal = {"error": {"message": f"Incorrect API key provided: {said}", "type": said, "code": said}}
            status = int(self.way) if self.way.isdigit() else 500
            await exchange.send(whole(refusal, status, **{"X-Request-Id": "r", "WWW-Authenticate": "Bearer"}))


WAYS = ("401", "500", "429", "head", "text", "json", "ok", "stream")


def config(folder: Path, url: str) -> Path:
    for kind in KINDS:
        (folder / f"{kind}.token").write_text(f"{MARK}-{kind}-header-0123456789\n")
    tables = [
        WORKER.format(kind=kind, variable=kind.upper(), folder=folder, url=url.removesuffix("/v1") + suffix)
        for kind, suffix in zip(KINDS, ("/v1", "", "", ""), strict=True)
    ]
    return configured(folder, "".join(tables) + REST.format(url=url.removesuffix("/v1")))


@asynccontextmanager
async def gossiping(folder: Path) -> AsyncIterator[tuple[Daemon, Gossip, Path]]:
    gossip = Gossip()
    async with ScriptedBackend(gossip) as backend:
        path = config(folder, backend.base_url)
        async with started(path, **VARIABLES) as daemon:
            await daemon.announced()
            assert daemon.address, daemon.stderr
            await daemon.until_ready()
            yield daemon, gossip, path


async def answers(daemon: Daemon) -> list[str]:
    """What clients are told by every route, head and body, in every dialect."""
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    said: list[str] = []
    async with aiohttp.ClientSession() as session:

        async def ask(path: str, body: dict[str, Any]) -> None:
            async with session.post(daemon.address + path, json=body) as response:
                text = await response.text(errors="replace")
                said.append(f"{path} {body['model']} {response.status} {dict(response.headers)} {text}")

        calls = [("/v1/embeddings", {"model": kind, "input": "hello"}) for kind in KINDS]
        for route in (*KINDS, "grpc", "docs", "own"):
            for stream in (False, True):
                asked = chat | {"model": route, "stream": stream}
                calls += [("/v1/chat/completions", asked), ("/v1/messages", asked)]
            calls.append(("/v1/completions", {"model": route, "prompt": "hello"}))
        await asyncio.gather(*(ask(*call) for call in calls))
    return said


async def operated(daemon: Daemon, folder: Path) -> list[str]:
    """What the admin API says, and the public listener's operations."""
    connector = aiohttp.UnixConnector(str(folder / "data" / "supervisor.sock"))
    said: list[str] = []
    paths = ("/status", "/config", "/workers", "/routes", "/stages", "/shards", "/usage", "/metrics", "/workers/openai")
    async with aiohttp.ClientSession(connector=connector) as session:
        for path in paths:
            async with session.get("http://x" + path) as response:
                said.append(await response.text())
        table = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "env:NOT_THERE_AT_ALL"}
        async with session.put("http://x/workers/openai", json=table) as response:
            assert response.status == 422
            said.append(await response.text())
    async with aiohttp.ClientSession() as session:
        for path in ("/metrics", "/readyz", "/healthz", "/v1/models", "/openapi.json"):
            async with session.get(daemon.address + path) as response:
                said.append(await response.text())
        admin = (await daemon.status())["admin"]
        for token in ("", "Bearer nonsense", f"Bearer {VARIABLES['ADMIN_TOKEN']}"):
            async with session.get(admin + "/config", headers={"Authorization": token}) as response:
                assert (response.status == 200) == (MARK in token)
                said.append(await response.text())
    return said


def commands(path: Path) -> list[str]:
    """What the commands print."""
    said: list[str] = []
    environment = os.environ | VARIABLES | {"HEADGATE_CONFIG": str(path)}
    given = (
        ("config", "show"),
        ("config", "show", "--json"),
        ("check", "--secrets"),
        ("status", "--json"),
        ("workers", "--json"),
        ("usage",),
        ("ask", "hello"),
        ("ingest", str(ROOT / "README.md"), "--collection", "own"),
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in given
    ]
    for words, process in zip(given, running, strict=True):
        output, _ = process.communicate(timeout=40)
        assert output, words
        said.append(f"{words}: {output}")
    return said


def left_behind(folder: Path, pids: list[int]) -> list[str]:
    """What lies in files, and what other users of the machine see of the processes."""
    files = [file for file in (folder / "data").rglob("*") if file.is_file()]
    said = [file.read_bytes().decode("latin-1") for file in files]
    return said + [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if alive(pid)]


def found(said: list[str]) -> list[str]:
    return [text[max(0, at - 200) : at + 60] for text in said if (at := text.find(MARK)) >= 0]


@pytest.mark.slow
async def test_no_planted_secret_is_ever_said(tmp_path: Path):
    async with gossiping(tmp_path) as (daemon, gossip, path):
        for way in WAYS:
            gossip.way = way
            said = await answers(daemon)
            assert not found(said), (way, found(said)[0])
        expected = {value for name, value in VARIABLES.items() if name not in ("ADMIN_TOKEN", "GRPC_KEY")}
        expected |= {f"{MARK}-{kind}-header-0123456789" for kind in KINDS}
        assert expected <= gossip.heard  # else there was nothing to be found
        (tmp_path / "openai.token").write_text(f"{MARK}-two-words\u00e9")  # which no header may carry
        daemon.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while not daemon.logged("reload_refused"):
                await asyncio.sleep(0.02)
        (tmp_path / "openai.token").write_text(f"{MARK}-openai-header-0123456789\n")
        said = await operated(daemon, tmp_path) + await asyncio.to_thread(commands, path)
        pids = list((await daemon.pids()).values())
        os.kill(pids[-1], signal.SIGUSR1)  # a traceback of all threads
        said += left_behind(tmp_path, [*pids, daemon.process.pid])
        assert not found(said), found(said)[0]
    assert len(daemon.logged("request")) > 50
    assert not found([daemon.stderr]), found([daemon.stderr])[0]


@pytest.mark.slow
async def test_a_secret_header_that_is_rotated_is_sent_after_a_reload(tmp_path: Path):
    async with gossiping(tmp_path) as (daemon, gossip, _):
        await answers(daemon)
        new = f"{MARK}-openai-rotated-0123456789"
        assert new not in gossip.heard
        (tmp_path / "openai.token").write_text(new)
        daemon.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while not daemon.logged("reload_applied"):
                await asyncio.sleep(0.02)
        await answers(daemon)  # an embedder reads its key again when it is refused
        gossip.heard.clear()
        said = await answers(daemon)
        assert new in gossip.heard
        assert f"{MARK}-openai-header-0123456789" not in gossip.heard
        assert not found(said)
    assert not found([daemon.stderr])
    (changed,) = daemon.logged("reload_applied")
    assert "workers[openai].headers.X-Gateway-Token" in json.dumps(changed)


def test_nothing_that_holds_a_secret_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    loaded = load(config(tmp_path, "http://127.0.0.1:9/v1"))
    assert len(list(references(loaded.config))) == 2 * len(KINDS) + 3
    said = [repr(loaded), repr(loaded.config), msgspec.json.encode(loaded.config).decode()]
    said.append(repr(Desk(tmp_path, None, None).prepare(loaded.config)))  # type: ignore[arg-type] # it is not opened
    said.append(repr(Credentials(VARIABLES["ADMIN_TOKEN"], None)))
    for worker in loaded.config.workers:
        said += [repr(worker), repr(built(worker))]
    assert not found(said), found(said)[0]


def built(section: AnyWorker) -> object:
    def resolve(reference: str) -> str:
        scheme, _, name = reference.partition(":")
        return VARIABLES[name] if scheme == "env" else Path(name).read_text().strip()

    try:
        return registry.build(section, resolve=resolve)
    except WorkerUnavailable as error:  # its package is not installed
        return str(error)
