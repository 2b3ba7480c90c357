"""Whatever kind a backend is of, its answers come out alike."""

import asyncio
import json
from collections import Counter

import pytest

from tests.conformance.backends.kinds import (
    KINDS,
    MISSING,
    SPEAKERS,
    ask,
    bare,
    calling,
    over,
    put_together,
    streamed_or_whole,
    told,
)
from tests.conformance.backends.speaker import Dribbles, Reasoning, Script, Text, ToolCall, pieces
from workers.base import Usage
from workers.canonical import FINISH_REASONS

ODD = 'Grüße, 灯塔 😀👩‍👩‍👧 \u2028\u0000 "\\/ data: [DONE]\n\ndata: {}\r\n\u200b'
WEATHER = ToolCall("call_a1", "weather", '{"city": "Kiel", "days": 3, "note": "größer \\"so\\""}')
TIDE = ToolCall("call_b2", "tide", "{}")
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "tide")
]


def test_every_kind_has_a_speaker():
    assert not MISSING, f"tests/conformance/backends has no file for {MISSING}"
    assert [speaker.kind for speaker in SPEAKERS] == KINDS


@over("script")
@streamed_or_whole
async def test_an_answer_comes_out_as_it_was_said(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        for request in (ask(stream=stream), bare(ask(stream=stream))):
            answer = await told(served.worker, request)
            assert answer.text == put_together(answer).text == served.script.text
            assert answer.reasons == {0: ["stop"]}
            assert put_together(answer).finish == "stop"
            if stream:
                assert [delta.text for delta in answer.deltas if delta.text] == [p.text for p in served.script.parts]
        assert [heard.stream for heard in served.heard] == [stream, stream]


@over("script", "unstreamed")
async def test_a_whole_answer_is_a_chat_completion(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        answer = await told(served.worker, ask(stream=False))
        (batch,) = answer.batches
        body = json.loads(batch.body)
        assert body["object"] == "chat.completion"
        assert all([body["id"], body["created"], body["model"]])
        assert body["choices"][0]["message"]["role"] == "assistant"
        assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (11, 4)
        assert body["usage"]["total_tokens"] == 15
        assert all(not delta.raw for delta in answer.deltas)


@over("script")
async def test_a_streamed_answer_has_no_body_and_its_chunks_are_of_one_answer(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script((Reasoning("Hm."), Text("a"), WEATHER))
        if "reasoning" in speaker.lacks | speaker.refuses or "tools" in speaker.lacks | speaker.refuses:
            served.script = Script()
        answer = await told(served.worker, ask(tools=TOOLS) if served.script.calls else ask())
        assert not any(batch.body for batch in answer.batches)
        chunks = [json.loads(delta.raw) for delta in answer.deltas if delta.raw]
        assert {chunk["object"] for chunk in chunks} <= {"chat.completion.chunk"}
        assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) <= 1


@over("script")
@streamed_or_whole
@pytest.mark.parametrize("text", ["", "x", ODD, ODD * 40], ids=["empty", "one", "odd", "long"])
async def test_any_text(speaker, stream, text, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(tuple(map(Text, pieces(text, 5))) if text else ())
        answer = await told(served.worker, ask(stream=stream))
        assert answer.text == put_together(answer).text == text
        assert answer.reasons == {0: ["stop"]}


@over("script", http=True)
@streamed_or_whole
@pytest.mark.parametrize("size", [1, 2, 3, 61])
async def test_bytes_cut_anywhere(speaker, stream, size, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script, served.fault = Script(tuple(map(Text, pieces(ODD, 9)))), Dribbles(size)
        answer = await told(served.worker, ask(stream=stream))
        assert answer.text == ODD
        assert answer.reasons == {0: ["stop"]}


@over("script", "tools")
@streamed_or_whole
@pytest.mark.parametrize(
    "parts",
    [(WEATHER,), (TIDE,), (Text("Let me see. "), WEATHER), (WEATHER, TIDE)],
    ids=["one", "no-arguments", "after-text", "parallel"],
)
async def test_tool_calls(speaker, stream, parts, tmp_path):
    if len(parts) > 1 and "parallel_tools" in speaker.lacks and not isinstance(parts[0], Text):
        parts = (WEATHER,)
    async with calling(speaker, tmp_path) as served:
        served.script = Script(parts, finish="tool_calls")
        answer = await told(served.worker, ask(stream=stream, tools=TOOLS))
        whole = put_together(answer)
        assert [(call.name, json.loads(call.arguments)) for call in whole.calls] == [
            (call.name, json.loads(call.arguments)) for call in served.script.calls
        ]
        ids = [call.call_id for call in whole.calls]
        if "tool_call_id" in speaker.ignores | speaker.lacks:
            assert all(ids)
            assert len({*ids}) == len(ids)
        else:
            assert ids == [call.call_id for call in served.script.calls]
        assert whole.text == answer.text == served.script.text
        assert answer.reasons == {0: ["tool_calls"]}
        assert whole.finish == "tool_calls"


@over("script", "reasoning")
@streamed_or_whole
async def test_reasoning_is_kept_apart_from_the_answer(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script((Reasoning("Queues… "), Reasoning("shed."), Text("They "), Text("shed.")))
        answer = await told(served.worker, ask(stream=stream))
        whole = put_together(answer)
        assert (whole.reasoning, whole.text, answer.text) == ("Queues… shed.", "They shed.", "They shed.")
        assert answer.reasons == {0: ["stop"]}


@over("script")
@streamed_or_whole
async def test_usage_comes_once_and_last(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        answer = await told(served.worker, ask(stream=stream))
        (usage,) = answer.usages
        assert (usage.prompt_tokens, usage.completion_tokens) == (11, 4)
        assert answer.batches[-1].usage is usage
        assert answer.deltas[-1].finish_reason == "stop"


@over("script", "usage_details")
@streamed_or_whole
async def test_usage_in_its_parts(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        counted = Usage(prompt_tokens=100, completion_tokens=40, cached_tokens=64, reasoning_tokens=25)
        served.script = Script(usage=counted)
        (usage,) = (await told(served.worker, ask(stream=stream))).usages
        assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (100, 40, 64)
        assert usage.reasoning_tokens in (25, 0)  # 0: not every provider tells
        assert usage.reasoning_tokens or "reasoning_tokens" not in str(usage.raw)


@over("script", "no_usage")
@streamed_or_whole
async def test_an_answer_without_usage(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(usage=None)
        answer = await told(served.worker, ask(stream=stream))
        assert answer.text == served.script.text
        assert not answer.usages


@over("script")
@streamed_or_whole
async def test_every_finish_reason_has_its_meaning(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        for said, meaning in speaker.reasons.items():
            served.script = Script(wire_finish=said)
            answer = await told(served.worker, ask(stream=stream))
            assert answer.reasons == {0: [meaning]}, said
            assert answer.text == served.script.text, said


@over("script", "unknown")
@streamed_or_whole
@pytest.mark.parametrize("said", ["out_of_cheese", "", "x" * 5000])
async def test_a_finish_reason_that_nobody_knows(speaker, stream, said, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(wire_finish=said)
        answer = await told(served.worker, ask(stream=stream))
        assert answer.text == served.script.text
        ((reason,),) = answer.reasons.values()
        assert reason in FINISH_REASONS
        assert put_together(answer).finish in FINISH_REASONS | {said}  # objects in OpenAI's dialect go on as they came


@over("script", "unknown")
@streamed_or_whole
async def test_fields_and_events_that_nobody_knows(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(unknown=True)
        answer = await told(served.worker, ask(stream=stream))
        assert answer.text == put_together(answer).text == served.script.text
        assert answer.reasons == {0: ["stop"]}


@over("script", "n")
@streamed_or_whole
async def test_several_choices(speaker, stream, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(n=3)
        answer = await told(served.worker, ask(stream=stream, n=3))
        assert answer.reasons == {0: ["stop"], 1: ["stop"], 2: ["stop"]}
        assert [put_together(answer, index=at).text for at in range(3)] == [served.script.text] * 3


@over("script")
@pytest.mark.slow
async def test_fifty_at_once(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script(tuple([Text(f"{at} ") for at in range(30)]))
        answers = await asyncio.gather(*[told(served.worker, ask(stream=bool(at % 4))) for at in range(50)])
        assert {answer.text for answer in answers} == {served.script.text}
        assert Counter(len(answer.usages) for answer in answers) == {1: 50}


@over("script", http=True)
async def test_many_at_once_do_not_mix(speaker, tmp_path, monkeypatch):
    async with calling(speaker, tmp_path) as served:
        monkeypatch.setattr(served, "script_for", lambda heard: Script((Text(heard.messages[-1].text), Text("!"))))
        asked = [ask({"messages": [{"role": "user", "content": f"number {at}"}]}) for at in range(30)]
        answers = await asyncio.gather(*[told(served.worker, request) for request in asked])
        assert [answer.text for answer in answers] == [f"number {at}!" for at in range(30)]


@over("script")
async def test_an_answer_is_not_begun_before_it_is_asked_for(speaker, tmp_path):
    """A generator that was made and never run calls nobody."""
    async with calling(speaker, tmp_path) as served:
        await served.worker.generate(ask()).aclose()
        assert not served.heard


@over("script")
@pytest.mark.parametrize("limit", [1, 64 << 10])
async def test_one_long_delta(speaker, limit, tmp_path):
    async with calling(speaker, tmp_path) as served:
        served.script = Script((Text("ü" * limit), Text("end")))
        assert (await told(served.worker, ask())).text == "ü" * limit + "end"
