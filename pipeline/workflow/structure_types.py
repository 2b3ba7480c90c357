"""The types that definitions are made of, as msgspec knows them, and what to say of them."""

from functools import cache

from msgspec import inspect

from config.shape import bare, describe, keys, leaves, of, variants
from pipeline.workflow.definition import CustomStep, Definition, Step
from pipeline.workflow.flat import BUILT_IN


@cache
def root() -> inspect.StructType:
    return of(Definition)


@cache
def custom() -> inspect.StructType:
    return of(CustomStep)


def is_step(info: inspect.Type) -> bool:
    kind = bare(info)[0]
    return isinstance(kind, inspect.UnionType) and any(
        isinstance(one, inspect.StructType) and one.tag for one in kind.types
    )


def nullable(info: inspect.Type) -> bool:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return isinstance(info, inspect.UnionType) and info.includes_none


@cache
def every_step() -> dict[str, inspect.Field]:
    """What steps of every type have."""
    return {field.encode_name: field for field in of(Step).fields}


@cache
def owners(key: str) -> list[str]:
    """The types of step that have such a key."""
    found = [tag for tag, one in variants(_steps()).items() if key in keys(one)]
    return [] if len(found) == len(BUILT_IN) else [f"{tag} steps" for tag in found]


@cache
def _steps() -> inspect.UnionType:
    steps = next(field.type for field in root().fields if field.name == "steps")
    kind = bare(steps)[0]
    item = kind.item_type if isinstance(kind, inspect.ListType) else kind
    if not isinstance(item, inspect.UnionType):
        raise TypeError("a definition has a list of steps")
    return item


def described(info: inspect.Type) -> str:
    """What the type takes, in words."""
    kind, said = bare(info)
    if said:
        return said
    if isinstance(kind, inspect.AnyType):
        return "any value"
    if leaves(kind):
        return describe(kind)
    if isinstance(kind, inspect.ListType):
        return f"a list of {_several(kind.item_type)}" + (f", at least {kind.min_length}" if kind.min_length else "")
    if isinstance(kind, inspect.UnionType) and not any(isinstance(one, inspect.StructType) for one in kind.types):
        return " or ".join(described(one) for one in kind.types)
    return "a mapping"


def _several(info: inspect.Type) -> str:
    kind, said = bare(info)
    if said:
        return said.replace("an identifier:", "identifiers:")
    if isinstance(kind, inspect.UnionType):
        return "steps"
    return {inspect.StrType: "texts", inspect.IntType: "whole numbers"}.get(type(kind), "mappings")


def article(what: str) -> str:
    return "an" if what[0] in "aeiou" or what.startswith("llm") else "a"
