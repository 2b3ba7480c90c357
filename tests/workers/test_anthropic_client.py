"""What the tests' server of Anthropic's Messages says is what Anthropic's own client understands."""

import json

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.conformance.backends.anthropic import SPEAKER
from tests.conformance.backends.speaker import Reasoning, Script, Text, ToolCall

CALL = ToolCall("toolu_1", "weather", '{"city": "Kiel"}')
SCRIPTS = [
    Script(),
    Script(
        (Reasoning("Hm. "), Reasoning("So."), Text("Look: "), CALL, ToolCall("toolu_2", "tide", "{}")), "tool_calls"
    ),
    Script((), "length"),
    Script((), "content_filter"),
]
events = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_event_and_every_message_is_of_its_types(script):
    for frame in SPEAKER.stream(script):
        name, data = frame.decode().removeprefix("event: ").removesuffix("\n\n").split("\ndata: ")
        assert json.loads(data)["type"] == name
        if name != "ping":
            events.validate_json(data)
    message = Message.model_validate_json(SPEAKER.whole(script))
    assert message.usage.input_tokens == 11
    assert [block.type for block in message.content].count("tool_use") == len(script.calls)
