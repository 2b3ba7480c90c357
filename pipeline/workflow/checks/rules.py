"""What the fields of a step must have to do with each other, type by type."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from pipeline.workflow.definition import (
    ActionStep,
    EmbedStep,
    LlmStep,
    LoopStep,
    MapStep,
    ReduceStep,
    WaitStep,
)
from pipeline.workflow.problems import Path


class Broken(NamedTuple):
    """`path` from the step."""

    path: Path
    message: str
    hint: str = ""


Rule = Callable[[Any], Iterator[Broken]]


def broken_rules(step: Any) -> Iterator[Broken]:
    rule = _RULES.get(type(step))
    if rule is not None:
        yield from rule(step)
    if step.on_failure == "fallback" and step.fallback is UNSET:
        yield Broken(("on_failure",), "on_failure: fallback needs the field `fallback`")
    elif step.fallback is not UNSET and step.on_failure != "fallback":
        yield Broken(("fallback",), "`fallback` is used only with on_failure: fallback", "add on_failure: fallback")


def _given(step: Any, *names: str) -> list[str]:
    return [name for name in names if getattr(step, name) is not None and getattr(step, name) is not UNSET]


def _one_of(step: Any, *names: str) -> Iterator[Broken]:
    given = _given(step, *names)
    if not given:
        yield Broken((), f"one of {_spelt(names)} is needed")
    elif len(given) > 1:
        yield Broken((given[1],), f"only one of {_spelt(names)} can be given")


def _spelt(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"


def _llm(step: LlmStep) -> Iterator[Broken]:
    yield from _one_of(step, "route", "provider")
    yield from _one_of(step, "prompt", "messages")
    if step.model is not None and step.provider is None:
        yield Broken(("model",), "`model` goes with `provider`; a route says which model it uses")
    if step.messages is not None and all(message.role == "system" for message in step.messages):
        yield Broken(("messages",), "expected at least one message that is not the system's")


def _embed(step: EmbedStep) -> Iterator[Broken]:
    yield from _one_of(step, "route", "collection")


def _map(step: MapStep) -> Iterator[Broken]:
    if step.as_ == "index":
        yield Broken(("as",), "`index` is the item's number inside of a map")


def _reduce(step: ReduceStep) -> Iterator[Broken]:
    if step.value is UNSET and not step.steps:
        yield Broken((), "one of `value` and `steps` is needed")
    if step.as_ == step.accumulator:
        yield Broken(("as",), f"the item and the accumulator have the same name, {step.as_!r}")
    for field, name in (("as", step.as_), ("accumulator", step.accumulator)):
        if name == "index":
            yield Broken((field,), "`index` is the item's number inside of a reduce")


def _loop(step: LoopStep) -> Iterator[Broken]:
    if "iteration" in step.variables:
        yield Broken(("variables", "iteration"), "`iteration` is the iteration's number inside of a loop")


# What each action needs, and what else it takes.
_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "log": (("message",), ()),
    "http_request": (("url",), ("method", "headers", "body", "expect_status")),
    "webhook": (("url",), ("method", "headers", "body", "expect_status")),
    "file_write": (("path", "content"), ()),
}
_ACTION_FIELDS = ("message", "url", "method", "headers", "body", "expect_status", "path", "content")


def _action(step: ActionStep) -> Iterator[Broken]:
    needed, more = _ACTIONS[step.action]
    given = [name for name in _given(step, *_ACTION_FIELDS) if getattr(step, name) != {}]
    for name in needed:
        if name not in given:
            yield Broken((), f"{step.action} needs `{name}`")
    for name in given:
        if name not in needed and name not in more:
            yield Broken((name,), f"{step.action} takes no `{name}`")
    if step.append and step.action != "file_write":
        yield Broken(("append",), f"{step.action} takes no `append`")
    if step.action != "log" and step.level != "info":
        yield Broken(("level",), f"{step.action} takes no `level`")


def _wait(step: WaitStep) -> Iterator[Broken]:
    yield from _one_of(step, "seconds", "until", "event")


_RULES: dict[type, Rule] = {
    LlmStep: _llm,
    EmbedStep: _embed,
    MapStep: _map,
    ReduceStep: _reduce,
    LoopStep: _loop,
    ActionStep: _action,
    WaitStep: _wait,
}
