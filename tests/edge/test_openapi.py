"""The API's description is true: what it says is accepted is, what it says is refused is, answers look as it says."""

import asyncio
import json
import os
import sys
import typing
from pathlib import Path

import pytest

from pipeline.core.errors import HeadgateError
from pipeline.edge import errors
from pipeline.edge.native_types import EVENTS
from pipeline.edge.openapi import describe
from pipeline.workflow.journal import AnyEntry
from pipeline.workflow.views import StartRun, Token
from tests.edge.schemathesis_hooks import DEFINITION, RUN
from tests.edge.test_errors import subclasses
from tests.edge.wire import ask, get
from tests.edge.workflow_server import site
from tests.flows import config
from tests.http import serving

ROOT = Path(__file__).parents[2]
WORKFLOWS = "^/v1/(workflows|runs)"
OF_WORKFLOWS = {kind for kind in subclasses(HeadgateError) if kind.__module__ == "pipeline.workflow.errors"}
NOT_OF_PROMPTS = {errors.UnknownPath, errors.WrongMethod, errors.MetricsUnavailable} | OF_WORKFLOWS


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


@pytest.mark.parametrize("path", ["/v1/workflows", "/v1/runs"])
def test_every_status_that_a_workflow_error_can_have_is_described(path):
    responses = json.loads(describe())["paths"][path]["post"]["responses"]
    assert {str(kind.status) for kind in OF_WORKFLOWS} <= set(responses)


def test_every_event_of_a_run_has_its_schema():
    document = json.loads(describe())
    stream = document["paths"]["/v1/runs/{id}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    described = {event["properties"]["data"]["contentSchema"]["$ref"] for event in stream["schema"]["oneOf"]}
    kinds = {*typing.get_args(AnyEntry), Token}
    assert described == {f"#/components/schemas/{kind.__name__}" for kind in kinds}


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
        text = await tried(server.port, tmp_path, "--max-examples=20", f"--exclude-path-regex={WORKFLOWS}")
        assert "Tested: 11" in text, text[-3000:]
        outcomes = {ticket.ending.outcome for ticket in server.books.ended if ticket.ending is not None}
        assert {"completed", "rejected"} <= outcomes  # it got further than the door


@pytest.mark.slow
async def test_schemathesis_finds_nothing_in_the_workflow_api(tmp_path):
    async with site(config()) as server:
        service = server.workflows.service
        await service.register(json.dumps(DEFINITION).encode(), "json", "-")
        await service.start(StartRun(workflow="made"), "-", 2, run_id=RUN)
        text = await tried(server.port, tmp_path, "--max-examples=5", f"--include-path-regex={WORKFLOWS}")
        assert "Tested: 15" in text, text[-3000:]
        assert len((await service.runs("-")).data) > 1


async def tried(port: int, folder: Path, *options: str) -> str:
    """What schemathesis says, which found nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "run",
        f"http://127.0.0.1:{port}/openapi.json",
        "--generation-deterministic",
        "--continue-on-failure",
        "--no-color",
        *options,
        cwd=folder,
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
    return text
