"""The API's description is true: what it says is accepted is, what it says is refused is, answers look as it says."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import HeadgateError
from pipeline.edge import errors
from pipeline.edge.native_types import EVENTS
from pipeline.edge.openapi import describe
from tests.edge.test_errors import subclasses
from tests.edge.wire import ask, get
from tests.flows import config
from tests.http import serving

ROOT = Path(__file__).parents[2]
NOT_OF_PROMPTS = {errors.UnknownPath, errors.WrongMethod, errors.MetricsUnavailable}


async def test_it_is_served():
    async with serving(config()) as server:
        answer = await ask(server.port, get("/openapi.json"))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json["openapi"] == "3.1.0"
        assert answer.body == describe()


def test_every_reference_leads_somewhere():
    document = json.loads(describe())
    references = set()

    def walk(value):
        if isinstance(value, dict):
            references.update([value["$ref"]] if "$ref" in value else [])
            value = list(value.values())
        for inner in value if isinstance(value, list) else []:
            walk(inner)

    walk(document)
    assert references
    for reference in references:
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/prompts"]
)
def test_every_status_that_an_error_can_have_is_described(path):
    responses = json.loads(describe())["paths"][path]["post"]["responses"]
    possible = {str(kind.status) for kind in subclasses(HeadgateError) - NOT_OF_PROMPTS}
    assert possible == set(responses) - {"200"}


def test_every_event_has_its_schema():
    document = json.loads(describe())
    stream = document["paths"]["/v1/prompts"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    described = {
        event["properties"]["event"]["const"]: event["properties"]["data"]["contentSchema"]["$ref"]
        for event in stream["schema"]["oneOf"]
    }
    assert described == {name: f"#/components/schemas/{kind.__name__}" for name, kind in EVENTS.items()}


@pytest.mark.slow
async def test_schemathesis_finds_nothing(tmp_path):
    async with serving(config()) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            f"http://127.0.0.1:{server.port}/openapi.json",
            "--generation-deterministic",
            "--max-examples=20",
            "--continue-on-failure",
            "--no-color",
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.edge.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(50):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        text = output.decode()
        assert process.returncode == 0, text[-8000:]
        assert "Tested: 11" in text, text[-3000:]
        outcomes = {ticket.ending.outcome for ticket in server.books.ended if ticket.ending is not None}
        assert {"completed", "rejected"} <= outcomes  # it got further than the door
