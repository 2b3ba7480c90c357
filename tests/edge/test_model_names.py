"""What answers call the model of a backend that does not say its name."""

import json
from typing import Any

import pytest

from tests.conformance.backends.kinds import SPEAKERS, calling
from tests.edge.wire import ask, post
from tests.flows import config
from tests.http import serving

THEIRS = "the-real/name:1"
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
}
TWO = [speaker for speaker in SPEAKERS if speaker.kind in ("cohere", "ollama")]


@pytest.mark.parametrize("speaker", TWO, ids=[speaker.kind for speaker in TWO])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("rename", [False, True], ids=["theirs", "renamed"])
async def test_it_is_the_one_that_the_worker_was_told(speaker, path, rename, tmp_path):
    conf = config(
        workers=[{"name": "w", "kind": "echo"}], routes=[{"name": "asked-for", "worker": "w", "rename_model": rename}]
    )
    async with (
        calling(speaker, tmp_path, model=THEIRS) as served,
        serving(conf, workers={"w": served.worker}) as server,
    ):
        for stream in (False, True):
            answer = await ask(server.port, post({"model": "asked-for", "stream": stream, **BODIES[path]}, path))
            assert answer.status == 200
            objects = streamed(answer.body) if stream else [answer.json]
            named = [found for one in objects if (found := (one.get("message") or one).get("model"))]
            assert set(named) == {"asked-for" if rename else THEIRS}
            assert said(objects) == served.script.text


def streamed(body: bytes) -> list[dict[str, Any]]:
    found = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    return [json.loads(data) for data in found if data != b"[DONE]"]


def said(objects: list[dict[str, Any]]) -> str:
    """In whatever dialect."""
    text = ""
    for one in objects:
        for choice in one.get("choices", ()):
            part = choice.get("delta") or choice.get("message") or {}
            text += choice.get("text") or part.get("content") or ""
        text += "".join(block.get("text", "") for block in one.get("content", ()))
        text += (one.get("delta") or {}).get("text", "")
    return text
