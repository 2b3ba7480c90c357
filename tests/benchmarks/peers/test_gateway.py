import json
import os
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.peers.backend import simulated
from benchmarks.peers.environment import Environment
from benchmarks.peers.gateway import Backend, CannotPrepare, CannotStart, Gateway, Running, ask, launch
from benchmarks.peers.headgate import Headgate
from benchmarks.peers.interrupt import Interrupted
from benchmarks.peers.known import gateways
from benchmarks.service import Service
from tests.benchmarks.peers.stand_ins import StandIn, alive, tick

NOWHERE = Backend("http://127.0.0.1:9", Service())
BUSY = """
import http.server, os, sys
class Busy(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_error(503, "still loading")
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Busy)
print("pid", os.getpid(), flush=True)
server.serve_forever()
"""


def test_the_gateways_in_their_order() -> None:
    every = gateways()
    assert list(every) == ["direct", "headgate", "litellm", "vllm-router", "vllm-router-tuned", "tensorzero"]
    assert all(gateway.name == name for name, gateway in every.items())


@pytest.mark.slow
def test_one_that_never_becomes_ready_says_why_and_is_ended(tmp_path: Path) -> None:
    gateway = StandIn("busy", [sys.executable, "-c", BUSY], limit=1.5)
    with pytest.raises(CannotStart, match=r"(?s)not ready within 1.5 s \(503.*its last lines:.*pid") as caught:
        gateway.start(NOWHERE, tmp_path, tick)
    pid = int(str(caught.value).partition("pid ")[2].split()[0])
    assert not alive(pid)


@pytest.mark.slow
def test_one_that_ends_at_once_says_with_what(tmp_path: Path) -> None:
    gateway = StandIn("broken", [sys.executable, "-c", "import sys; print('no licence'); sys.exit(3)"])
    with pytest.raises(CannotStart, match=r"(?s)exit status 3.*no licence"):
        gateway.start(NOWHERE, tmp_path, tick)


def test_one_whose_program_is_not_there(tmp_path: Path) -> None:
    gateway = StandIn("absent", [str(tmp_path / "absent")])
    with pytest.raises(CannotStart, match="absent: no such file"):
        gateway.start(NOWHERE, tmp_path, tick)


@pytest.mark.slow
def test_an_interrupt_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        text = (tmp_path / "stand-in.log").read_text()
        if "pid" in text:
            pids.append(int(text.split()[1]))
            raise Interrupted
        tick()

    with pytest.raises(Interrupted):
        StandIn("busy", [sys.executable, "-c", BUSY]).start(NOWHERE, tmp_path, interrupted)
    assert not alive(pids[0])


@pytest.mark.slow
def test_an_address_that_the_gateway_chooses(tmp_path: Path) -> None:
    with simulated(Service(first_token_ms=0), tmp_path, tick) as backend:
        said = f"print('listening'); print('{backend.url}/v1', flush=True); import signal; signal.pause()"
        command = [sys.executable, "-c", said]
        running = launch(command, os.environ, tmp_path / "log", tick, base_url=None, model="sim")
        assert running.base_url == f"{backend.url}/v1"
        running.stop()


@pytest.mark.slow
def test_the_backend_does_what_the_service_says_and_ends_with_the_context(tmp_path: Path) -> None:
    service = Service(slots=3, queue=None, tokens_per_second=50.0, distribution="exponential", cancel=False)
    with simulated(service, tmp_path, tick) as backend:
        with urllib.request.urlopen(f"{backend.url}/sim", timeout=5) as response:
            told = json.load(response)["service"]
        assert {key: told[key] for key in ("slots", "queue", "tokens_per_second", "distribution", "cancel")} == {
            "slots": 3,
            "queue": None,
            "tokens_per_second": 50.0,
            "distribution": "exponential",
            "cancel": False,
        }
    assert ask(Running(f"{backend.url}/v1", "sim")) is not None


@pytest.mark.slow
def test_headgate_with_further_settings_and_with_its_own_routes(tmp_path: Path) -> None:
    further = tmp_path / "further.toml"
    further.write_text("[stages.inference]\nconcurrency = 7\n[server]\nmax_connections = 99\n")
    own = tmp_path / "own.toml"
    own.write_text(
        '[[workers]]\nname = "w"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[[routes]]\nname = "mine"\nworker = "w"\n'
    )
    with simulated(Service(first_token_ms=0), tmp_path, tick) as backend:
        for config, model in ((further, "sim"), (own, "mine")):
            folder = tmp_path / model
            folder.mkdir()
            gateway = Headgate(config)
            gateway.prepare(tick)
            running = gateway.start(backend, folder, tick)
            try:
                assert running.model == model
                assert ask(running) is None
                assert len(running.pids) == 2  # supervisor and shard
            finally:
                pids = running.pids
                running.stop()
            assert not any(map(alive, pids))
    assert "concurrency = 7" in (tmp_path / "sim" / "pipeline.toml").read_text()


@pytest.mark.parametrize("text", ["[server", '[[workers]]\nname = "w"\nkind = "echo"\n'])
def test_settings_for_headgate_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(text)
    with pytest.raises(CannotPrepare):
        Headgate(config).prepare(tick)


@pytest.mark.slow
def test_settings_that_headgate_refuses_are_told_with_its_own_words(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text("[server]\nprot = 1\n")
    gateway = Headgate(config)
    gateway.prepare(tick)
    with pytest.raises(CannotStart, match=r"(?s)exit status \d.*prot"):
        gateway.start(NOWHERE, tmp_path, tick)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vllm-router", "vllm-router-tuned"])
def test_a_real_peer_installs_starts_answers_and_ends(tmp_path: Path, name: str) -> None:
    gateway: Gateway = gateways()[name]
    try:
        gateway.prepare(tick)
    except CannotPrepare as error:
        if (Environment("vllm-router").programs / "vllm-router").exists():
            raise
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs the network once: {error}")
    with simulated(Service(first_token_ms=0), tmp_path, tick) as backend:
        running = gateway.start(backend, tmp_path, tick)
        pids = running.pids
        assert pids
        assert ask(running) is None
        running.stop()
        assert not any(map(alive, pids))
        assert ask(running) is not None
