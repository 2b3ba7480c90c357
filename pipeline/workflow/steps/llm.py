"""`llm`: a prompt through the pipeline; with an `output_schema`, until the answer is JSON that fits."""

from collections.abc import Sequence
from typing import Any

from pipeline.workflow.definition import LlmStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.json_schema import Schema, SchemaRefused, Validator, compile_schema
from pipeline.workflow.ports import Answered, Asking, Result, StepContext
from pipeline.workflow.steps import answers, values
from workers.base import ChatMessage, Parameters

_INT = 2_147_483_647
_SEED = 2**63
_SHOWN = 2000  # characters of a wrong answer in the error's details
_LEAST_SECONDS = 0.001


async def llm(step: LlmStep, context: StepContext) -> Result:
    """See `LlmStep`. Its value is the answer's text, or what was parsed of it."""
    route, messages, parameters = chosen_route(step, context), _messages(step, context), _parameters(step, context)
    if step.output_schema is None:
        asking = _asking(context, route, messages, parameters, number=1)
        answered = await context.services.prompts.ask(asking, context.emit)
        return _result(answered.text, [answered], route)
    return await _fitting(step, context, route, messages, parameters)


async def _fitting(
    step: LlmStep, context: StepContext, route: str, messages: Sequence[ChatMessage], parameters: Parameters
) -> Result:
    """Asks again, with the answer before and what is wrong with it in the conversation."""
    validator = _validator(step.output_schema)
    wants_object = _wants_object(validator.schema)
    conversation = _instructed(messages, answers.instruction(validator.schema))
    given: list[Answered] = []
    for number in range(1, step.output_attempts + 1):
        asking = _asking(context, route, conversation, parameters, number=number, json_answer=wants_object)
        answered = await context.services.prompts.ask(asking, context.emit)
        given.append(answered)
        found = answers.parsed(answered.text, validator, answered.finish_reason)
        if not found.faults:
            return _result(found.value, given, route)
        again = ChatMessage("user", answers.correction(found.faults))
        conversation = (*conversation, ChatMessage("assistant", answers.recalled(answered.text)), again)
    raise StepFailed(
        "invalid_output",
        f"the answer does not fit output_schema after {len(given)} attempts: {found.faults[0]}",
        retryable=True,
        details={"faults": found.faults, "answer": given[-1].text[:_SHOWN], "asks": len(given), "usage": _usage(given)},
    )


def chosen_route(step: LlmStep, context: StepContext) -> str:
    """By name, or the first that leads to the provider and model."""
    if step.provider is None:
        return values.name(context, "route")
    route = context.catalog.route_of(step.provider, step.model)
    if route is None:
        wanted = step.provider if step.model is None else f"{step.provider} with the model {step.model}"
        raise StepFailed("unknown_route", f"no route leads to {wanted}", details={"field": "provider"})
    return route


def _messages(step: LlmStep, context: StepContext) -> tuple[ChatMessage, ...]:
    messages: list[ChatMessage] = []
    system = context.value("system")
    if system is not None and system != "":
        messages.append(ChatMessage("system", values.as_text("system", system)))
    if step.messages is None:
        messages.append(ChatMessage("user", values.text(context, "prompt")))
    else:
        for position, message in enumerate(step.messages):
            messages.append(ChatMessage(message.role, values.text(context, f"messages.{position}.content")))
    if all(message.role == "system" for message in messages):
        raise StepFailed("invalid_input", "messages: nothing is asked: there are only system messages")
    return tuple(messages)


def _parameters(step: LlmStep, context: StepContext) -> Parameters:
    return Parameters(
        max_tokens=values.integer(context, "max_tokens", 1, _INT),
        temperature=values.number(context, "temperature", 0.0, 2.0),
        top_p=values.number(context, "top_p", 0.0, 1.0),
        stop=tuple(sequence for sequence in step.stop or () if sequence),
        seed=values.integer(context, "seed", -_SEED, _SEED - 1),
    )


def _asking(
    context: StepContext,
    route: str,
    messages: Sequence[ChatMessage],
    parameters: Parameters,
    *,
    number: int,
    json_answer: bool = False,
) -> Asking:
    remaining = context.remaining
    return Asking(
        request_id=request_id(context, number),
        session_id=context.run_id,
        route=route,
        messages=tuple(messages),
        parameters=parameters,
        caller=context.caller,
        priority=context.priority,
        underway=context.underway or number > 1,
        timeout=None if remaining is None else max(remaining, _LEAST_SECONDS),
        json_answer=json_answer,
    )


def request_id(context: StepContext, number: int = 1) -> str:
    """The same step's begin alike; no two are the same."""
    return f"wf-{context.idempotency_key[:24]}-{context.attempt}-{number}"


def _instructed(messages: Sequence[ChatMessage], instruction: str) -> tuple[ChatMessage, ...]:
    """With the instruction at the end of the first system message, which is made where there is none."""
    if messages[0].role == "system":
        return (ChatMessage("system", f"{messages[0].text}\n\n{instruction}"), *messages[1:])
    return (ChatMessage("system", instruction), *messages)


def _validator(schema: Schema | None) -> Validator:
    try:
        return compile_schema(schema)
    except SchemaRefused as refused:
        where = ".".join(["output_schema", *map(str, refused.path)])
        raise StepFailed("invalid_schema", f"{where}: {refused.message}", details={"field": where}) from refused


def _wants_object(schema: Schema) -> bool:
    """Backends that can be held to JSON are so to an object."""
    return isinstance(schema, dict) and (schema.get("type") == "object" or "properties" in schema)


def _result(value: Any, given: Sequence[Answered], route: str) -> Result:
    last = given[-1]
    metadata = {"route": route, "finish_reason": last.finish_reason, "asks": len(given), **last.metadata}
    if last.passages:
        metadata["passages"] = last.passages
    return Result(value, {"text": last.text, "model": last.model, "usage": _usage(given), "metadata": metadata})


def _usage(given: Sequence[Answered]) -> dict[str, int] | None:
    """Of all of them together; None where nobody counted."""
    counted = [one.usage for one in given if one.usage is not None]
    if not counted:
        return None
    return {name: sum(usage.get(name, 0) for usage in counted) for name in counted[0]}
