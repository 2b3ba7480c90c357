"""What a run executes, fixed: a definition with all those that it calls, as they are now; and back to a plan."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline.workflow.calls import Others, calls
from pipeline.workflow.definition import MAX_STEPS, AnyStep, CustomStep, Definition
from pipeline.workflow.errors import DefinitionRefused, UnknownWorkflow
from pipeline.workflow.journal import Bundle
from pipeline.workflow.plan import Plan
from pipeline.workflow.planning import drafted
from pipeline.workflow.ports import Library

_NONE: Mapping[str, Definition] = {}
_BUILT_IN = frozenset(str(kind.__struct_config__.tag) for kind in AnyStep.__args__)
_decode = msgspec.json.Decoder(Definition).decode


async def resolve(definition: Definition, library: Library) -> Others:
    """All that it calls, and that those call, by the text that calls them. What cannot be had is among `problems`; what
    calls the definition again is left out (`pipeline.workflow.planning.plan` says so)."""
    own = {definition.name, f"{definition.name}@{definition.version}"}
    others = Others()
    wanted = calls(definition)
    for text in wanted:  # grows on the way
        if text in own or text in others or text in others.problems:
            continue
        if len(others) + len(others.problems) >= MAX_STEPS:
            others.problems[text] = "too many workflows are called"
            continue
        try:
            others[text] = found = await library.definition(text)
        except UnknownWorkflow as unknown:
            others.problems[text] = unknown.message[:1].lower() + unknown.message[1:]
        except DefinitionRefused as refused:
            others.problems[text] = refused.message
        else:
            wanted += calls(found)
    return others


def bundle(definition: Definition, others: Mapping[str, Definition] = _NONE) -> Bundle:
    """Definitions that are not called are left out. The order of keys makes no difference to the digest."""
    called: dict[str, Definition] = {}
    wanted = calls(definition)
    for text in wanted:  # grows on the way
        if text not in called and text in others:
            called[text] = others[text]
            wanted += calls(others[text])
    content = msgspec.json.encode([definition, called], order="sorted")
    return Bundle(
        hashlib.sha256(content).hexdigest(),
        msgspec.Raw(msgspec.json.encode(definition)),
        {text: msgspec.Raw(msgspec.json.encode(one)) for text, one in sorted(called.items())},
    )


def planned(bundle: Bundle) -> Plan:
    """The plan of what is in a journal: it was checked before it came there. Custom types are taken as they come, since
    a step of one that is not installed fails when it runs. Raises `DefinitionRefused`."""
    main = definition_of(bytes(bundle.main))
    others = {text: definition_of(bytes(one)) for text, one in bundle.others.items()}
    return drafted(main, others, _Any(), reach=False).made()


def definition_of(text: bytes) -> Definition:
    """A definition from its own JSON, custom steps among its steps. Raises `msgspec.MsgspecError`."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        return _with_customs(msgspec.json.decode(text))


class _Any(frozenset[str]):
    """Every custom type."""

    def __contains__(self, _: object) -> bool:
        return True


def _with_customs(tree: Any) -> Definition:
    """Others than the built-in types are no part of the union: they are read apart, and put in their places."""
    customs: list[tuple[list[int], CustomStep]] = []
    lists: list[tuple[list[int], list[Any]]] = [([], tree["steps"])]
    while lists:
        path, steps = lists.pop()
        for index, step in enumerate(steps):
            if step["type"] not in _BUILT_IN:
                customs.append(([*path, index], msgspec.convert(step, CustomStep)))
                steps[index] = {"type": "wait", "id": step["id"]}
            elif step.get("steps"):
                lists.append(([*path, index], step["steps"]))
    definition = msgspec.convert(tree, Definition)
    for path, custom in customs:
        beside: list[Any] = definition.steps
        for index in path[:-1]:
            beside = beside[index].steps
        beside[path[-1]] = custom
    return definition
