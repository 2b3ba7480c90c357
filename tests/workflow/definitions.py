"""Definitions for tests, written short."""

from typing import Any

import msgspec

from pipeline.workflow.definition import Definition


def definition(*steps: dict[str, Any], **root: Any) -> Definition:
    return msgspec.convert({"name": "main", "steps": list(steps), **root}, Definition)


def llm(id_: str, prompt: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"id": id_, "type": "llm", "route": "echo", "prompt": prompt, **fields}


def step(type_: str, id_: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "type": type_, **fields}


def branch(id_: str, *cases: tuple[Any, Any], default: Any = ()) -> dict[str, Any]:
    return step("branch", id_, cases=[{"when": when, "then": then} for when, then in cases], default=default or [])
