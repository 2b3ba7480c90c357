"""What the official npm client makes of our answers. It differs from the Python one: it takes what it asked for at its
word, and unpacks whatever comes as base64 embeddings."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.flows import config
from tests.http import serving
from tests.servers import Exchange, ScriptedBackend, chunk, completion, says, streamed, whole

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "npm"
CACHE = Path(__file__).parents[2] / ".venv" / "npm"
CALL = {"id": "call_1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Kiel"}'}}


def required(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not there: install Node.js 20 or newer with npm"
        if os.environ.get("CI") or "MAKELEVEL" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def script() -> Path:
    """The script beside the client that it uses, which is installed once for each lock file."""
    npm = required("npm")
    files = sorted(path for path in HERE.iterdir() if path.is_file())
    folder = CACHE / hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in files:
            shutil.copy(path, folder)
        if not (folder / ".installed").exists():
            command = [npm, "ci", "--prefer-offline", "--cache", str(CACHE / "cache")]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)
            assert done.returncode == 0, done.stderr[-3000:]
            (folder / ".installed").touch()
    return folder / "client.mjs"


async def backend(exchange: Exchange) -> None:
    """It calls tools, embeds without base64, and breaks off where the model is `breaking`."""
    body = exchange.json
    if exchange.path == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        await says(whole({"object": "list", "data": data, "model": "m", "usage": usage}))(exchange)
    elif body["model"] == "breaking":
        await says(streamed(chunk("so far"), {"error": {"message": "out of memory", "code": 500}}))(exchange)
    elif body["stream"]:
        begun = {"index": 0, **CALL, "function": {"name": "tide", "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": CALL["function"]["arguments"]}}
        await says(
            streamed(chunk(role="assistant", tool_calls=[begun]), chunk(tool_calls=[rest]), chunk(finish="tool_calls"))
        )(exchange)
    else:
        answer = completion("")
        answer["choices"][0] |= {
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
        await says(whole(answer))(exchange)


async def run(script: Path, base_url: str) -> Any:
    node = required("node")
    process = await asyncio.create_subprocess_exec(
        node, str(script), base_url, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(40):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out)


async def test_the_npm_client(script):
    async with ScriptedBackend(backend) as served:
        theirs = {"kind": "openai", "base_url": served.base_url, "health_interval_ms": 0}
        conf = config(
            workers=[
                {"name": "echo", "kind": "echo"},
                {"name": "slow", "kind": "echo", "tokens": 1000, "tokens_per_s": 50},
                {"name": "failing", "kind": "echo", "failure_rate": 1.0},
                {"name": "theirs", **theirs},
                {"name": "breaking", "model": "breaking", **theirs},
            ],
            routes=[
                {"name": name, "worker": worker}
                for name, worker in [("tools", "theirs"), *((own, own) for own in ("echo", "slow", "failing"))]
            ]
            + [{"name": "breaking", "worker": "breaking"}],
        )
        async with serving(conf) as server:
            told = await run(script, server.base_url)
            outcomes = {ticket.route: str(ticket.ending.outcome) for ticket in server.books.ended if ticket.ending}
    assert told["whole"]["text"] == "hello there"
    assert told["whole"]["tokens"] == 4
    assert told["whole"]["id"]
    assert told["streamed"] == {"text": "hello there", "tokens": 4, "finish": "stop"}
    call = {"name": "tide", "arguments": '{"port": "Kiel"}'}
    assert told["tools"]["whole"] == [call]
    assert told["tools"]["streamed"][0].items() >= call.items()
    assert told["tools"]["reason"] == "tool_calls"
    assert told["completions"] == {"text": "hello ", "reason": "length", "streamed": "hello there"}
    vectors = told["embeddings"]
    assert vectors["lengths"] == [384, 384]
    assert vectors["distance"] < 1e-6
    assert vectors["theirs"] == [0.5, -1.0]
    assert vectors["tokens"] == 5
    assert set(told["models"]) == {"tools", "echo", "slow", "failing", "breaking"}
    assert told["left"] is True
    assert outcomes["slow"] == "cancelled"
    check_errors(told["errors"])


def check_errors(errors: dict[str, Any]) -> None:
    assert errors["model"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    assert (errors["role"]["kind"], errors["role"]["param"]) == ("BadRequestError", "messages[0].role")
    assert (errors["input"]["kind"], errors["input"]["param"]) == ("BadRequestError", "input")
    assert (errors["tokens"]["kind"], errors["tokens"]["param"]) == ("BadRequestError", "prompt")
    assert (errors["backend"]["kind"], errors["backend"]["status"]) == ("InternalServerError", 502)
    assert errors["stream"]["kind"] == "APIError"
    assert errors["stream"]["code"] == "backend_error"
