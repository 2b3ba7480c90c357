"""What steps do: handlers by type. Those that have steps inside, and waits, are the engine's own."""

from collections.abc import Mapping

from pipeline.workflow.ports import Handler
from pipeline.workflow.steps.action import action
from pipeline.workflow.steps.custom import custom_kinds
from pipeline.workflow.steps.embed import embed
from pipeline.workflow.steps.llm import llm
from pipeline.workflow.steps.transform import transform
from pipeline.workflow.steps.vectors import vector_search, vector_upsert

__all__ = ["custom_kinds", "handlers"]


def handlers() -> Mapping[str, Handler]:
    """Of the built-in types that have no steps inside."""
    return {
        "llm": llm,
        "embed": embed,
        "vector_search": vector_search,
        "vector_upsert": vector_upsert,
        "transform": transform,
        "action": action,
    }
