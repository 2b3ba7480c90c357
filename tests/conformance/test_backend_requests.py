"""Whatever kind a backend is of, what a client asks for reaches it, or the client is told that it cannot."""

import base64
import json
from typing import Any

import msgspec
import pytest

from tests.conformance.backends.kinds import (
    SPEAKERS,
    Failed,
    ask,
    bare,
    calling,
    ended,
    failed,
    over,
    streamed_or_whole,
    told,
)
from tests.conformance.backends.speaker import SECRET, HeardMessage, Script, ToolCall
from workers.base import ChatMessage
from workers.errors import WorkerErrorKind

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}}
ADDRESS = {"type": "image_url", "image_url": {"url": "https://pictures.example/harbour.png"}}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "depth": {"type": "number"}},
    "required": ["name", "depth"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "channel", "strict": True, "schema": SCHEMA}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "tide", "description": "The tide.", "parameters": NOTHING}},
]
CALLS = [
    {"id": "call_a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kiel"}'}},
    {"id": "call_b2", "type": "function", "function": {"name": "tide", "arguments": "{}"}},
]
FOLLOW_UP = [
    {"role": "user", "content": "weather and tide?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "call_a1", "content": "12 °C"},
    {"role": "tool", "tool_call_id": "call_b2", "content": '{"low": "14:20"}'},
]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Hello. What is it?"},
    {"role": "user", "content": [{"type": "text", "text": "grüße,"}, {"type": "text", "text": "灯塔"}]},
]


async def heard(speaker, folder, request, **fields):
    """What reaches the backend."""
    async with calling(speaker, folder, **fields) as served:
        await told(served.worker, request)
        (one,) = served.heard
        return one


@over("script")
@streamed_or_whole
async def test_sampling_parameters(speaker, stream, tmp_path):
    wanted: dict[str, Any] = {"max_tokens": 33, "temperature": 0.25, "top_p": 0.5, "seed": 7, "stop": ["END", "\n\n"]}
    wanted = {name: value for name, value in wanted.items() if name not in speaker.refuses}
    request = ask(stream=stream, **wanted)
    for one in (request, bare(request)):
        got = msgspec.structs.asdict(await heard(speaker, tmp_path, one))
        got["stop"] = list(got["stop"])
        assert {name: got[name] for name in wanted if name not in speaker.ignores} == {
            name: value for name, value in wanted.items() if name not in speaker.ignores
        }


@over("script", "stop")
async def test_one_stop_sequence_without_a_list(speaker, tmp_path):
    assert (await heard(speaker, tmp_path, ask(stop="END"))).stop == ("END",)


@over("script")
async def test_what_was_not_said_is_not_said(speaker, tmp_path):
    got = await heard(speaker, tmp_path, ask())
    assert (got.temperature, got.top_p, got.seed, got.stop, got.n) == (None, None, None, (), 1)
    assert (got.tools, got.schema, got.tool_choice) == ({}, None, None)


@over("script")
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_that_was_lowered_here(speaker, name, tmp_path):
    request = ask({name: 500})
    parameters = msgspec.structs.replace(request.parameters, max_tokens=40)
    got = await heard(speaker, tmp_path, msgspec.structs.replace(request, parameters=parameters, shortened=True))
    assert got.max_tokens == 40


@over("script")
async def test_the_name_of_the_model_is_the_clients(speaker, tmp_path):
    if "renamed" not in speaker.lacks:
        assert (await heard(speaker, tmp_path, ask())).model == "asked-for"


@over("script", "renamed")
async def test_the_name_of_the_model_is_the_sections(speaker, tmp_path):
    for request in (ask(), bare(ask())):
        assert (await heard(speaker, tmp_path, request, model="the-real/name:1")).model == "the-real/name:1"


@over("script")
async def test_a_talk(speaker, tmp_path):
    for request in (ask({"messages": TALK}), bare(ask({"messages": TALK}))):
        got = await heard(speaker, tmp_path, request)
        said = [(message.role, message.text.split()) for message in got.messages]
        assert said == [
            ("system", ["Be", "brief."]),
            ("user", ["hello"]),
            ("assistant", ["Hello.", "What", "is", "it?"]),
            ("user", ["grüße,", "灯塔"]),
        ]


@over("script")
async def test_a_developer_is_a_system(speaker, tmp_path):
    got = await heard(speaker, tmp_path, ask({"messages": [{"role": "developer", "content": "Be brief."}, *TALK[1:]]}))
    assert got.messages[0] == HeardMessage("system", "Be brief.")


@over("script")
async def test_several_system_messages_are_all_heard(speaker, tmp_path):
    messages = [TALK[0], {"role": "system", "content": "Be kind."}, *TALK[1:]]
    got = await heard(speaker, tmp_path, ask({"messages": messages}))
    text = " ".join([message.text for message in got.messages if message.role == "system"])
    assert text.split() == ["Be", "brief.", "Be", "kind."]


@over("script")
async def test_messages_that_were_rewritten_here(speaker, tmp_path):
    """Retrieved passages are put in front, old messages left out; the rest of the body stays."""
    request = ask({"messages": TALK, "temperature": 0.25})
    messages = (ChatMessage("system", "Passages: …"), *request.messages[-1:])
    got = await heard(speaker, tmp_path, msgspec.structs.replace(request, messages=messages, rewritten=True))
    assert [message.role for message in got.messages] == ["system", "user"]
    assert got.messages[0].text == "Passages: …"
    assert got.temperature == 0.25


@over("script", "tools")
@streamed_or_whole
async def test_tools(speaker, stream, tmp_path):
    got = await heard(speaker, tmp_path, ask(stream=stream, tools=TOOLS))
    assert got.tools == {"weather": CITY, "tide": NOTHING}


@over("script", "tools", "tool_choice")
@pytest.mark.parametrize("choice", ["auto", "none", "required", "weather"])
async def test_the_choice_of_tools(speaker, choice, tmp_path):
    named = {"type": "function", "function": {"name": choice}}
    async with calling(speaker, tmp_path) as served:
        request = ask(tools=TOOLS, tool_choice=named if choice == "weather" else choice)
        end = await ended(served.worker, request)
        if isinstance(end, Failed):  # of a provider that cannot choose one by its name
            assert (choice, end.error.kind) == ("weather", WorkerErrorKind.BAD_REQUEST)
            assert "tool_choice" in end.error.message
        else:
            (got,) = served.heard
            # Without tools none can be called, which is another way to say `none`; `auto` is what is meant anyway.
            assert (
                got.tool_choice == choice
                or (choice == "none" and not got.tools)
                or (choice, got.tool_choice)
                == (
                    "auto",
                    None,
                )
            )


@over("script", "tools")
@streamed_or_whole
async def test_results_of_tools(speaker, stream, tmp_path):
    messages = FOLLOW_UP if "parallel_tools" not in speaker.lacks else _one_call(FOLLOW_UP)
    got = await heard(speaker, tmp_path, ask({"messages": messages}, stream=stream, tools=TOOLS))
    said, *results = got.messages[1:]
    given = [ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in messages[1]["tool_calls"]]
    assert (said.role, said.text) == ("assistant", "")
    assert [(c.name, json.loads(c.arguments)) for c in said.calls] == [(c.name, json.loads(c.arguments)) for c in given]
    assert [(result.role, result.text) for result in results] == [("tool", m["content"]) for m in messages[2:]]
    if "tool_call_id" not in speaker.ignores | speaker.lacks:
        assert [call.call_id for call in said.calls] == [call.call_id for call in given]
        assert [result.call_id for result in results] == [call.call_id for call in given]


def _one_call(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [messages[0], {**messages[1], "tool_calls": CALLS[:1]}, messages[2]]


@over("script", "json_schema")
@streamed_or_whole
async def test_structured_output(speaker, stream, tmp_path):
    got = await heard(speaker, tmp_path, ask(stream=stream, response_format=FORMAT))
    assert got.schema == SCHEMA


@over("script", "images")
@streamed_or_whole
async def test_images(speaker, stream, tmp_path):
    content = [{"type": "text", "text": "what is this?"}, PICTURE]
    got = await heard(speaker, tmp_path, ask({"messages": [{"role": "user", "content": content}]}, stream=stream))
    assert got.messages[-1].images == (PNG,)
    assert got.messages[-1].text == "what is this?"


@over("script", "images", "image_urls")
async def test_addresses_of_images(speaker, tmp_path):
    content = [ADDRESS, {"type": "text", "text": "what is this?"}]
    got = await heard(speaker, tmp_path, ask({"messages": [{"role": "user", "content": content}]}))
    assert got.messages[-1].images == ("https://pictures.example/harbour.png",)


@over("script", "reasoning_effort")
@pytest.mark.parametrize("effort", ["low", "high"])
async def test_how_much_to_reason(speaker, effort, tmp_path):
    got = await heard(speaker, tmp_path, ask(reasoning_effort=effort, max_tokens=30_000))
    assert got.reasoning_effort == effort


ASKING: dict[str, dict[str, Any]] = {
    "tools": {"tools": TOOLS},
    "tool_choice": {"tools": TOOLS, "tool_choice": "required"},
    "parallel_tools": {"messages": FOLLOW_UP, "tools": TOOLS},
    "images": {"messages": [{"role": "user", "content": [PICTURE]}]},
    "image_urls": {"messages": [{"role": "user", "content": [ADDRESS]}]},
    "json_schema": {"response_format": FORMAT},
    "n": {"n": 2},
    "seed": {"seed": 7},
    "stop": {"stop": ["END"]},
    "top_p": {"top_p": 0.5},
    "reasoning_effort": {"reasoning_effort": "high"},
}
REFUSED = [(speaker, feature) for speaker in SPEAKERS for feature in sorted(speaker.refuses) if feature in ASKING]
IGNORED = [(speaker, feature) for speaker in SPEAKERS for feature in sorted(speaker.ignores) if feature in ASKING]


def _ids(pairs: list[tuple[Any, Any]]) -> list[str]:
    return [f"{speaker.kind}-{feature}" for speaker, feature in pairs]


@pytest.mark.parametrize(("speaker", "feature"), REFUSED, ids=_ids(REFUSED))
async def test_what_a_dialect_cannot_say_is_refused_and_not_left_out(speaker, feature, tmp_path):
    async with calling(speaker, tmp_path) as served:
        error = (await failed(served.worker, ask(ASKING[feature]))).error
        assert error.kind is WorkerErrorKind.BAD_REQUEST
        assert not error.retryable
        assert any(name in error.message for name in {*ASKING[feature], feature, "image"}), error.message
        assert not served.heard


@pytest.mark.parametrize(("speaker", "feature"), IGNORED, ids=_ids(IGNORED))
async def test_what_a_dialect_has_no_word_for_does_no_harm(speaker, feature, tmp_path):
    async with calling(speaker, tmp_path) as served:
        assert (await told(served.worker, ask(ASKING[feature]))).text == served.script.text


@over("script", "credentials")
async def test_credentials_and_the_requests_id_go_along(speaker, tmp_path):
    async with calling(speaker, tmp_path) as served:
        await told(served.worker, ask())
        (headers,) = served.headers
        assert headers["x-request-id"] == "req-1"
        assert [name for name, value in headers.items() if SECRET in value]


@over("script", "credentials", http=True)
async def test_headers_of_the_section(speaker, tmp_path):
    async with calling(speaker, tmp_path, headers={"X-Team": "harbour", "User-Agent": "ours"}) as served:
        await told(served.worker, ask())
        (headers,) = served.headers
        assert (headers["x-team"], headers["user-agent"]) == ("harbour", "ours")


def _picture(address: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}


ODD_BODIES: list[dict[str, Any]] = [
    {"tools": "all"},
    {"tools": [1, None, {}]},
    {"tools": [{"type": "function"}]},
    {"tools": TOOLS, "tool_choice": 7},
    {"tools": TOOLS, "tool_choice": {"type": "function"}},
    {"response_format": "json"},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
    {"messages": [{"role": "user", "content": [{"type": "hologram", "hologram": "x"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}]}
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
    {"messages": [{"role": "tool", "content": "12"}]},
    {"messages": [{"role": "tool", "tool_call_id": "never", "content": "12"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"id": 5}]}]},
    {"messages": [{"role": "assistant", "tool_calls": "yes"}]},
    {"messages": [*FOLLOW_UP[:1], {**FOLLOW_UP[1], "tool_calls": [{**CALLS[0], "function": {"name": "weather"}}]}]},
    {
        "messages": [
            *FOLLOW_UP[:1],
            {
                **FOLLOW_UP[1],
                "tool_calls": [{**CALLS[0], "function": {"name": "weather", "arguments": "{broken"}}],
            },
            FOLLOW_UP[2],
        ]
    },
    {"messages": [{"role": "assistant", "content": None}]},
    {"messages": [{"role": "system", "content": "only this"}]},
    {"messages": [{"role": "user", "content": ""}]},
    {"stream_options": 4},
    {"logit_bias": {"5": 1}, "logprobs": True, "user": "u", "metadata": {"a": "b"}, "store": False},
    {"reasoning_effort": 9},
]


@over("script")
async def test_odd_requests_are_refused_or_answered_and_nothing_else(speaker, tmp_path):
    """Those that reach the backend may be refused by it; it then answers 400."""
    async with calling(speaker, tmp_path) as served:
        for body in ODD_BODIES:
            end = await ended(served.worker, ask(body))
            if isinstance(end, Failed):
                assert (end.error.kind, end.error.retryable) == (WorkerErrorKind.BAD_REQUEST, False), body
                assert end.error.message, body
            else:
                assert end.reasons == {0: ["stop"]}, body
        served.rejected.clear()
        served.script = Script()
        assert (await told(served.worker, ask())).text == served.script.text
