"""`llm` steps through a real pipeline."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pipeline.workflow.definition import LlmStep, Message
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.json_schema import compile_schema
from pipeline.workflow.ports import Result
from pipeline.workflow.prompts import IngressPrompts
from pipeline.workflow.steps import answers
from pipeline.workflow.steps.llm import llm
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.flows import Books, running
from tests.workflow.steps.context import Context, Routes
from workers.base import Delta, DeltaBatch, Usage

SCHEMA = {
    "type": "object",
    "required": ["mood"],
    "properties": {"mood": {"enum": ["good", "bad"]}, "score": {"type": "number"}},
}


@asynccontextmanager
async def prompts() -> AsyncIterator[tuple[IngressPrompts, ScriptedWorker, Books]]:
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, books):
        yield IngressPrompts(pipeline.ingress), worker, books


def answer(worker: ScriptedWorker, text: str, *, finish_reason: str = "stop", usage: Usage | None = None) -> None:
    worker.say(text)
    worker.batches.put_nowait(DeltaBatch((Delta(finish_reason=finish_reason),), usage))
    worker.batches.put_nowait(None)


def step(**fields: Any) -> LlmStep:
    return LlmStep(id="ask", **{"route": "echo", **fields})


async def failing(one: LlmStep, **given: Any) -> StepFailed:
    async with prompts() as (port, _, _):
        with pytest.raises(StepFailed) as caught:
            await llm(one, Context(one, prompts=port, **given))
    return caught.value


async def test_a_prompt_and_all_its_fields():
    async with prompts() as (port, _, books):
        one = step(prompt="{{ x }}", system="Be brief.")
        context = Context(one, prompts=port, filled={"prompt": "hello there"})
        result = await llm(one, context)
    assert result.value == result.fields["text"] == "hello there"
    assert "".join(context.emitted) == "hello there"
    assert result.fields["model"] == "echo"
    assert result.fields["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    assert result.fields["metadata"] == {"route": "echo", "finish_reason": "stop", "asks": 1, "worker": "echo"}
    msgspec.json.encode(result.fields)
    assert books.ended[0].session_id == "run-1"
    assert books.ended[0].priority == 2  # its run has not begun


async def test_messages_and_parameters_reach_the_worker():
    async with prompts() as (port, worker, _):
        answer(worker, "yes")
        messages = [Message(role="user", content="a"), Message(role="assistant", content="b")]
        one = step(route="said", messages=[*messages, Message(role="user", content="{{ c }}")], system="s")
        one = msgspec.structs.replace(one, max_tokens=7.0, temperature=0, top_p=0.5, seed=3, stop=["\n", ""])
        await llm(one, Context(one, prompts=port, filled={"messages.2.content": {"c": 1}}))
        (request,) = worker.requests
    told = [(message.role, message.text) for message in request.messages]
    assert told == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", '{"c":1}')]
    parameters = request.parameters
    assert (parameters.max_tokens, parameters.temperature, parameters.top_p, parameters.seed) == (7, 0.0, 0.5, 3)
    assert parameters.stop == ("\n",)


async def test_by_provider_and_model():
    catalog = Routes({("openai", "large"): "said", ("echo", None): "echo"})
    async with prompts() as (port, _, _):
        one = LlmStep(id="ask", provider="echo", prompt="hi")
        assert (await llm(one, Context(one, prompts=port, catalog=catalog))).fields["metadata"]["route"] == "echo"
    error = await failing(LlmStep(id="ask", provider="openai", model="small", prompt="hi"), catalog=catalog)
    assert (error.kind, error.retryable) == ("unknown_route", False)
    assert "openai with the model small" in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.5),
        ("temperature", "warm"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", "5"),
        ("top_p", -0.1),
        ("top_p", [0.5]),
        ("seed", 2**63),
        ("seed", 0.5),
        ("route", 5),
        ("route", " "),
        ("route", None),
        ("prompt", None),
    ],
)
async def test_fields_that_turn_out_wrong(field: str, value: Any):
    error = await failing(step(prompt="hi"), filled={field: value})
    assert (error.kind, error.retryable, error.details["field"]) == ("invalid_input", False, field)
    assert error.message.startswith(f"{field}: expected ")


async def test_a_message_that_turns_out_wrong_is_named():
    one = step(messages=[Message(role="user", content="a"), Message(role="user", content="{{ b }}")])
    assert (await failing(one, filled={"messages.1.content": None})).details["field"] == "messages.1.content"
    only = step(messages=[Message(role="system", content="a")])
    assert "nothing is asked" in (await failing(only)).message


async def test_an_answer_in_json():
    async with prompts() as (port, _, _):
        text = 'Here it is:\n```json\n{"mood": "good"}\n```\nAnything else?'
        one = step(prompt=text, output_schema=SCHEMA)
        result = await llm(one, Context(one, prompts=port))
    assert result.value == {"mood": "good"}
    assert result.fields["text"] == text
    assert result.fields["metadata"]["asks"] == 1


async def asked_until(*texts: str, attempts: int = 3, **fields: Any) -> tuple[Result, ScriptedWorker, Books]:
    async with prompts() as (port, worker, books):
        for text in texts:
            answer(worker, text, usage=Usage(10, 2))
        one = step(route="said", prompt="How was it?", output_schema=SCHEMA, output_attempts=attempts, **fields)
        return await llm(one, Context(one, prompts=port)), worker, books


async def test_a_wrong_answer_is_asked_for_again_with_what_was_wrong():
    result, worker, books = await asked_until("Good!", '{"mood": "fine"}', '{"mood": "good", "score": 1}')
    assert result.value == {"mood": "good", "score": 1}
    assert result.fields["usage"] == {"prompt_tokens": 30, "completion_tokens": 6, "total_tokens": 36}
    assert result.fields["metadata"]["asks"] == 3
    first, second, third = worker.requests
    assert first.messages[0].role == "system"
    assert '"enum":["good","bad"]' in first.messages[0].text
    assert b"json_object" in first.body
    assert [message.text for message in second.messages[1:3]] == ["How was it?", "Good!"]
    assert "there is no JSON" in second.messages[3].text
    assert "mood: " in third.messages[-1].text
    assert len({request.request_id for request in worker.requests}) == 3
    assert [ticket.priority for ticket in books.ended] == [2, 1, 1]  # from the second on the run is under way


async def test_the_instruction_goes_to_the_steps_own_system_message():
    _, worker, _ = await asked_until('{"mood": "bad"}', system="You are a critic.")
    (request,) = worker.requests
    assert request.messages[0].text.startswith("You are a critic.\n\nAnswer with JSON")
    assert [message.role for message in request.messages] == ["system", "user"]


async def test_answers_that_never_fit():
    with pytest.raises(StepFailed) as caught:
        await asked_until('{"mood": 1}', '{"mood": 2}', attempts=2)
    error = caught.value
    assert (error.kind, error.retryable) == ("invalid_output", True)
    assert "after 2 attempts: mood:" in error.message
    assert error.details["answer"] == '{"mood": 2}'
    assert error.details["usage"]["total_tokens"] == 24
    msgspec.json.encode(error.details)


async def test_an_answer_cut_off_is_told_so():
    async with prompts() as (port, worker, _):
        answer(worker, '{"mood": "go', finish_reason="length")
        answer(worker, '{"mood": "bad"}')
        one = step(route="said", prompt="x", output_schema=SCHEMA)
        assert (await llm(one, Context(one, prompts=port))).value == {"mood": "bad"}
        assert "cut off" in worker.requests[1].messages[-1].text


async def test_a_schema_that_may_not_be_used():
    error = await failing(step(prompt="x", output_schema={"properties": {"a": {"$ref": "http://x/"}}}))
    assert error.kind == "invalid_schema"
    assert error.details["field"] == "output_schema.properties.a.$ref"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"mood": "good"}', {"mood": "good"}),
        ('  \n{"mood": "good"}\n', {"mood": "good"}),
        ('```\n{"mood": "bad"}\n```', {"mood": "bad"}),
        ('I take {braces} and [lists]; so {"mood": "good"} it is.', {"mood": "good"}),
        ('First {"mood": "fine"}, no: {"mood": "bad"}.', {"mood": "bad"}),
        ('```json\n{"mood": oops}\n```\n{"mood": "good"}', {"mood": "good"}),
        ('{"mood": "good", "score": NaN} {"mood": "bad"}', {"mood": "bad"}),
    ],
)
def test_json_is_found_in_an_answer(text: str, value: Any):
    found = answers.parsed(text, compile_schema(SCHEMA), "stop")
    assert (found.value, found.faults) == (value, [])


@pytest.mark.parametrize("text", ["", "no", "{" * 100_000, "[" * 100_000, '{"a":' * 50_000, "```" * 10_000, "{}" * 9])
def test_what_holds_none_is_told_and_takes_no_time(text: str):
    found = answers.parsed(text, compile_schema(SCHEMA), "stop")
    assert found.faults


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [({"type": "string"}, '"yes"', "yes"), ({"type": "integer"}, " 5 ", 5), (True, "null", None)],
)
def test_answers_that_are_no_objects(schema: Any, text: str, value: Any):
    found = answers.parsed(text, compile_schema(schema), "stop")
    assert (found.value, found.faults) == (value, [])
