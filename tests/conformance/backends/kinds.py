"""The kinds of backends there are, and what tests of them share: requests, one way to call, answers put together."""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from config.schema import AnyWorker, EchoWorker, ExtractiveWorker
from tests.conformance.backends.speaker import Feature, Served, Speaker, ToolCall, until
from tests.workers.helpers import Told
from workers.base import ChatMessage, GenerationRequest, ModelWorker, Parameters
from workers.errors import WorkerError

_OWN_WORDS = (EchoWorker, ExtractiveWorker)  # they call nobody
KINDS: list[str] = sorted(section.__struct_config__.tag for section in get_args(AnyWorker) if section not in _OWN_WORDS)


def _module(kind: str) -> Path:
    return Path(__file__).with_name(f"{kind.replace('-', '_')}.py")


MISSING = [kind for kind in KINDS if not _module(kind).exists()]
SPEAKERS: list[Speaker] = [
    importlib.import_module(f"{__package__}.{_module(kind).stem}").SPEAKER for kind in KINDS if kind not in MISSING
]


def over(*needs: Feature, http: bool = False) -> pytest.MarkDecorator:
    """Runs a test over the kinds that have all of `needs`, as its parameter `speaker`; `http`: over those by HTTP."""
    found = [
        speaker
        for speaker in SPEAKERS
        if (speaker.http or not http) and not {*needs} & (speaker.lacks | speaker.refuses | speaker.ignores)
    ]
    return pytest.mark.parametrize("speaker", found, ids=[speaker.kind for speaker in found])


streamed_or_whole = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

# Requests.

TEXT = {"messages": [{"role": "user", "content": "when does a full queue shed?"}]}


def ask(body: dict[str, Any] | None = None, *, stream: bool = True, **fields: Any) -> GenerationRequest:
    """A request as the edge makes one of a client's body; `fields` are more of the body."""
    whole = {"model": "asked-for", "stream": stream, **TEXT, **(body or {}), **fields}
    messages = tuple([ChatMessage(one["role"], _text(one), json.dumps(one).encode()) for one in whole["messages"]])
    stop = whole.get("stop") or ()
    parameters = Parameters(
        whole.get("max_tokens") or whole.get("max_completion_tokens"),
        whole.get("temperature"),
        whole.get("top_p"),
        (stop,) if isinstance(stop, str) else tuple(stop),
        whole.get("n") or 1,
        whole.get("seed"),
    )
    return GenerationRequest(
        "req-1", None, "asked-for", messages, parameters, stream, body=json.dumps(whole).encode(), rewritten=False
    )


def bare(request: GenerationRequest) -> GenerationRequest:
    """The same with messages of our own making and no body, as a prompt from the command line."""
    messages = tuple([ChatMessage(message.role, message.text) for message in request.messages])
    return msgspec.structs.replace(request, messages=messages, body=b"", rewritten=True)


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join([part["text"] for part in content if part.get("type") == "text"])


# Calls.


@asynccontextmanager
async def calling(speaker: Speaker, folder: Path, **fields: Any) -> AsyncIterator[Served]:
    """A backend and its worker. Fails when a connection or a task is left behind, when a request was not what the
    protocol allows, or when something went wrong that nobody was told."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    before = asyncio.all_tasks()
    async with speaker.serving(folder, **fields) as served:
        async with asyncio.timeout(30):
            yield served
        await served.worker.aclose()
        await served.until(lambda: served.open == 0)
        assert not served.rejected
    before.add(asyncio.current_task())  # type: ignore[arg-type] # a fixture's end is not in its beginning's task
    await until(lambda: asyncio.all_tasks() <= before)
    assert not unheard, unheard


async def told(worker: ModelWorker, request: GenerationRequest) -> Told:
    async with aclosing(worker.generate(request)) as batches:
        return Told([batch async for batch in batches])


class Failed(msgspec.Struct):
    """A call that ended with `error`, after `told`."""

    told: Told
    error: WorkerError


async def ended(worker: ModelWorker, request: GenerationRequest) -> Told | Failed:
    """The call to its end, whichever; anything but an answer or a `WorkerError` is raised."""
    so_far = Told([])
    try:
        async with aclosing(worker.generate(request)) as batches:
            async for batch in batches:
                so_far.batches.append(batch)
    except WorkerError as error:
        return Failed(so_far, error)
    return so_far


async def failed(worker: ModelWorker, request: GenerationRequest) -> Failed:
    """Fails where the call does not."""
    end = await ended(worker, request)
    assert isinstance(end, Failed), end
    return end


# Answers.


class Answer(msgspec.Struct):
    """What a client that speaks OpenAI's chat completions would have at the end."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str | None = None


def put_together(answer: Told, *, index: int = 0) -> Answer:
    """From the chunks that go to the client, or from the body where it was not streamed."""
    bodies = [batch.body for batch in answer.batches if batch.body]
    if bodies:
        (choice,) = [one for one in json.loads(bodies[0])["choices"] if one["index"] == index]
        message = choice["message"]
        calls = tuple([_call(one) for one in message.get("tool_calls") or ()])
        return Answer(
            message.get("content") or "", message.get("reasoning_content") or "", calls, choice["finish_reason"]
        )
    return _of_chunks(answer, index)


def _of_chunks(answer: Told, index: int) -> Answer:
    found = Answer()
    calls: dict[int, dict[str, Any]] = {}
    for delta in answer.deltas:
        if not delta.raw:
            assert not delta.extra, "a delta that carries more than text, and does not"
        choices = json.loads(delta.raw)["choices"] if delta.raw else [_plain(delta)]
        for choice in [choice for choice in choices if choice["index"] == index]:
            fields = choice["delta"]
            found.text += fields.get("content") or ""
            found.reasoning += fields.get("reasoning_content") or ""
            found.finish = choice.get("finish_reason") or found.finish
            for piece in fields.get("tool_calls") or ():
                assert delta.extra, "a chunk with tool calls has to be marked `extra`"
                _add(calls.setdefault(piece["index"], {"function": {"arguments": ""}}), piece)
    assert sorted(calls) == list(range(len(calls))), "tool calls are counted from 0"
    found.calls = tuple([_call(calls[position]) for position in sorted(calls)])
    return found


def _plain(delta: Any) -> dict[str, Any]:
    return {"index": delta.index, "delta": {"content": delta.text}, "finish_reason": delta.finish_reason}


def _add(call: dict[str, Any], piece: dict[str, Any]) -> None:
    """As OpenAI's clients do: arguments are joined, anything else is set once."""
    function = piece.get("function") or {}
    if piece.get("id"):
        assert "id" not in call, "the id of a call comes once"
        call["id"] = piece["id"]
        assert piece["type"] == "function"
    if function.get("name"):
        call["function"]["name"] = function["name"]
    call["function"]["arguments"] += function.get("arguments") or ""


def _call(call: dict[str, Any]) -> ToolCall:
    return ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
