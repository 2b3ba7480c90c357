"""The client against a real server, one that goes away among others."""

import asyncio
import json
import re
import socket
from contextlib import aclosing
from pathlib import Path
from typing import Self

import pytest

from pipeline.workflow.client import RunEvent, WorkflowApiError, WorkflowClient
from pipeline.workflow.event_stream import Frame, FrameDecoder
from pipeline.workflow.states import RunState
from pipeline.workflow.views import Token
from tests.edge.workflow_server import Site, on_site, site
from tests.flows import config
from tests.workflow.served import APPROVE, ASK, GREET

REFERENCE = Path(__file__).parents[2] / "docs/reference/workflow-api.md"


@on_site
async def test_a_workflow_from_its_text_to_its_outputs(here):
    async with WorkflowClient(here.url) as client:
        assert await client.validate(GREET) == []
        registered = await client.register(GREET)
        assert (registered.name, registered.source) == ("greet", GREET)
        assert await client.workflow("greet") == await client.workflow("greet", "1") == registered
        assert [one.name for one in await client.workflows()] == ["greet"]
        run = await client.start("greet", {"who": "Ada"}, metadata={"order": 1})
        events = [event async for event in client.events(run.id)]
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].state is RunState.COMPLETED
        ended = await client.run(run.id)
        assert (ended.outputs, ended.metadata) == ({"text": "Hello Ada!"}, {"order": 1})
        assert await client.wait(run.id) == ended
        assert await client.step(run.id, "greeting") == ended.steps[0]
        with pytest.raises(WorkflowApiError) as refused:
            await client.step(run.id, "each[3]/draft")
        assert (refused.value.status, refused.value.code) == (404, "step_not_found")


@on_site
async def test_sources_of_all_kinds(here, tmp_path):
    definition = {"name": "j", "steps": [{"id": "a", "type": "transform", "operation": "template", "template": "x"}]}
    (tmp_path / "greet.yaml").write_text(GREET)
    (tmp_path / "j.json").write_text(json.dumps(definition))
    async with WorkflowClient(here.url) as client:
        assert (await client.register(tmp_path / "greet.yaml")).name == "greet"
        assert (await client.register(str(tmp_path / "j.json"))).name == "j"
        assert (await client.register(definition)).name == "j"
        assert (await client.register(json.dumps(definition))).name == "j"
        with pytest.raises(FileNotFoundError):
            await client.register(tmp_path / "missing.yaml")
        run = await client.start(definition)
        assert (await client.wait(run.id)).outputs == {"a": "x"}


@on_site
async def test_what_is_refused_says_why(here):
    async with WorkflowClient(here.url) as client:
        with pytest.raises(WorkflowApiError) as refused:
            await client.register(GREET.replace("inputs.who", "inputs.whom"))
        assert (refused.value.status, refused.value.code) == (422, "invalid_workflow")
        assert [fault.line > 0 for fault in refused.value.faults] == [True]
        assert await client.validate(GREET.replace("inputs.who", "inputs.whom")) == list(refused.value.faults)
        for doing, status in (
            (client.run("run_x"), 404),
            (client.start("nobody"), 404),
            (client.workflow("a/../b"), 404),
            (client.pause("run_x"), 404),
            (client.start("greet", max_concurrency=0), 400),
            (client.wait("run_x"), 404),
            (anext(client.events("run_x")), 404),
            (anext(client.runs(states=["nonsense"])), 400),
        ):
            with pytest.raises(WorkflowApiError) as refused:
                await doing
            assert refused.value.status == status


@on_site
async def test_what_can_be_said_to_a_run(here):
    async with WorkflowClient(here.url) as client:
        await client.register(APPROVE)
        run = await client.start("approve")
        await here.workflows.until(run.id, RunState.WAITING)
        assert (await client.pause(run.id)).state is RunState.PAUSED
        await client.resume(run.id)
        assert (await client.cancel(run.id, "enough")).state is RunState.CANCELLED
        await client.retry(run.id)
        await client.signal(run.id, "decided", "yes")
        assert (await client.wait(run.id, 5)).outputs == {"result": "It was yes"}
        with pytest.raises(WorkflowApiError) as refused:
            await client.cancel(run.id)
        assert (refused.value.status, refused.value.code) == (409, "conflict")


@on_site
async def test_a_key_starts_one_run(here):
    async with WorkflowClient(here.url) as client:
        await client.register(GREET)
        first = await client.start("greet", {"who": "Ada"}, idempotency_key="k")
        assert (await client.start("greet", {"who": "Ada"}, idempotency_key="k")).id == first.id
        assert (await client.start("greet", {"who": "Ada"})).id != first.id


@on_site
async def test_all_pages(here, monkeypatch):
    monkeypatch.setattr("pipeline.workflow.client.PAGE_MAX", 2)
    async with WorkflowClient(here.url) as client:
        await client.register(GREET)
        ids = [(await client.start("greet", {"who": str(number)})).id for number in range(5)]
        assert [run.id async for run in client.runs()] == ids[::-1]
        assert [run.id async for run in client.runs(limit=3, workflow="greet")] == ids[:1:-1]
        assert [run.id async for run in client.runs(workflow="other")] == []


@on_site
async def test_tokens(here):
    async with WorkflowClient(here.url) as client:
        await client.register(ASK)
        run = await client.start("ask", {"question": "one two"})
        events = [event async for event in client.events(run.id)]
        assert all(isinstance(event.entry, Token) == (event.number == 0) for event in events)


@on_site
async def test_waiting_no_longer_than_asked(here):
    async with WorkflowClient(here.url) as client:
        await client.register(APPROVE)
        run = await client.start("approve")
        with pytest.raises(TimeoutError):
            await client.wait(run.id, 0.05)
    async with asyncio.timeout(5):
        while here.workflows.hub.watchers:
            await asyncio.sleep(0.005)


async def test_nobody_answers():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with WorkflowClient(url, patience=0.3) as client:
            began = asyncio.get_running_loop().time()
            with pytest.raises(WorkflowApiError, match="no answer from the daemon") as error:
                await client.run("run_x")
            assert (error.value.status, error.value.code) == (0, "unreachable")
            assert asyncio.get_running_loop().time() - began >= 0.2  # it has tried again
            with pytest.raises(WorkflowApiError):
                await anext(client.events("run_x"))


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://user:pass@x"])
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match="no address"):
        WorkflowClient(url)


class Between:
    """Passes connections on to a server, and can cut them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self.refusing = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 86\r\nConnection: close\r\n\r\n"
                b'{"error":{"message":"no room","type":"server_error","code":"overloaded","param":null}}'
            )
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._site.port)
        self._writers |= {writer, back}
        await asyncio.gather(_pass(reader, back), _pass(there, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()
    except ConnectionError:
        writer.transport.abort()


@on_site
async def test_a_stream_that_breaks_off_is_taken_up_again(here):
    async with Between(here) as between, WorkflowClient(between.url) as client:
        await client.register(APPROVE)
        run = await client.start("approve")
        await here.workflows.until(run.id, RunState.WAITING)
        seen: list[RunEvent] = []
        async with aclosing(client.events(run.id)) as events:
            async for event in events:
                seen.append(event)
                if event.state is RunState.WAITING:
                    between.cut()
                    await here.workflows.service.signal(run.id, "-", "decided", "yes")
        assert [event.number for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].state is RunState.COMPLETED
        assert between.connections >= 2


@on_site
async def test_a_server_without_room_is_asked_again_when_it_said(here):
    async with Between(here) as between, WorkflowClient(between.url) as client:
        await client.register(GREET)
        between.refusing = True
        between.cut()
        starting = asyncio.create_task(client.start("greet", {"who": "Ada"}))
        async with asyncio.timeout(5):
            while between.connections < 2:
                await asyncio.sleep(0.01)
        between.refusing = False
        assert (await client.wait((await starting).id)).outputs == {"text": "Hello Ada!"}
        between.refusing = True
        between.cut()
        async with WorkflowClient(between.url, patience=0.5) as hasty:
            with pytest.raises(WorkflowApiError, match="no room") as error:
                await hasty.workflows()
            assert (error.value.status, error.value.retry_after) == (503, 1.0)


async def test_keys_are_sent():
    async with site(config(server={"anonymous": False}, keys=[])) as here, WorkflowClient(here.url) as client:
        with pytest.raises(WorkflowApiError) as error:
            await client.workflows()
        assert error.value.status == 401


def test_frames_whatever_the_cuts():
    stream = (
        b'retry: 250\n\nid: 7\nevent: step\ndata: {"a":\ndata: 1}\n\n: hi\n\nevent: token\r\ndata: \xc3\xa9\r\n\r\n'
    )
    expected = [Frame("7", "step", b'{"a":\n1}'), Frame("", "token", "é".encode())]
    for size in range(1, len(stream) + 1):
        decoder = FrameDecoder()
        found = [frame for at in range(0, len(stream), size) for frame in decoder.feed(stream[at : at + size])]
        assert (found, decoder.retry_ms) == (expected, 250)


@on_site
async def test_the_example_of_the_reference_runs(here, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    defined = code.replace('asyncio.run(main("http://127.0.0.1:8080"))', "")
    names: dict[str, object] = {}
    exec(compile(defined, str(REFERENCE), "exec"), names)
    await names["main"](here.url)  # type: ignore[operator]
    out = capsys.readouterr().out
    assert "{'text': 'Hello Ada!'}" in out
    assert "409 conflict" in out


@pytest.mark.slow
@on_site
async def test_the_curl_examples_of_the_reference_run(here, tmp_path):
    (code, *_) = re.findall(r"```sh\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        code.replace("http://127.0.0.1:8080", here.url),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert b'"name":"greet"' in out
    (run,) = [run.id for run in (await here.workflows.service.runs("-")).data]
    assert (await here.workflows.until(run, RunState.COMPLETED)).outputs == {"text": "Hello Ada!"}
