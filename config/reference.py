"""The schema for others to read: as a JSON schema for editors, as a page of the documentation."""

import json
from collections.abc import Sequence
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import inspect

from config import schema as sections
from config.descriptions import description
from config.schema import Config
from config.shape import bare, common, describe, keys, root, variants

_INTRODUCTION = """\
# Configuration

<!-- Written by `headgate config schema --markdown`; a test compares the two. -->

One TOML file. The commands read the one named by `--config`, else by `HEADGATE_CONFIG`, else `pipeline.toml` in the
working directory. The smallest one that serves is one worker and one route:

```toml
[[workers]]
name = "local"
kind = "openai"
base_url = "http://127.0.0.1:8000/v1"

[[routes]]
name = "chat"
worker = "local"
```

- `headgate check [FILE]` prints every problem at once, with its key path and line, and exits with status 2. It also
  loads certificates and compiles templates; with `--secrets` it looks up what references name.
- `headgate config show` prints what is in force and where each value comes from.
- `headgate config schema` prints a JSON schema, for editors.

**Environment.** `HEADGATE__SECTION__KEY` overrides a key: `HEADGATE__SERVER__PORT=9000`,
`HEADGATE__STAGES__RAG__CAPACITY=64`. Elements of arrays are named by their index from 0:
`HEADGATE__WORKERS__0__BASE_URL=http://…`. Variables change elements, they add none. A key for text takes the variable's
text as it is, any other takes it as TOML writes it: `true`, `0.5`, `["a", "b"]`. A variable that names no key is an
error. Case does not matter.

**Secrets** do not stand in the file. Where a key wants one, it takes a reference: `env:NAME` for a variable,
`file:PATH` for a file.

**Paths** in the file are relative to its folder, except `server.data_dir`, which is relative to the working directory.

**Units** are part of a key's name: `_ms`, `_bytes`, `_chars`, `_tokens`.
"""


def json_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of the file, with what each key is for."""
    schema = msgspec.json.schema(Config)
    for name, definition in schema["$defs"].items():
        section, properties = getattr(sections, name), definition.get("properties", {})
        for key in properties.keys() & set(section.__struct_encode_fields__):
            properties[key]["description"] = description(section, key)
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headgate configuration"}
    return {**title, **schema}


def markdown() -> str:
    """The reference page: every table with its keys, in the order of the schema."""
    return "\n".join([_INTRODUCTION, *_tables(root(), "")])


def _tables(info: inspect.StructType, name: str) -> list[str]:
    lines: list[str] = []
    for field in info.fields:
        kind = bare(field.type)[0]
        here = f"{name}.{field.encode_name}" if name else field.encode_name
        if isinstance(kind, inspect.StructType):
            lines += _table(f"`[{here}]`", kind, here)
        elif isinstance(kind, inspect.ListType):
            lines += _array(here, bare(kind.item_type)[0])
    return lines


def _array(name: str, item: inspect.Type) -> list[str]:
    if isinstance(item, inspect.StructType):
        return _table(f"`[[{name}]]`", item, name)
    if not isinstance(item, inspect.UnionType):
        return []
    shared = common(item)
    lines = _table(f"`[[{name}]]` of every kind", shared, name)
    for tag, info in variants(item).items():
        lines += _table(f'`[[{name}]]` with `kind = "{tag}"`', info, name, without=keys(shared))
    return lines


def _table(title: str, info: inspect.StructType, name: str, without: Sequence[str] = ()) -> list[str]:
    fields = [field for field in info.fields if field.encode_name not in without and not _is_table(field.type)]
    if not fields:
        return _tables(info, name)
    about = [cleandoc(info.cls.__doc__), ""] if info.cls.__doc__ else []
    head = ["| key | takes | default | |", "|---|---|---|---|"]
    return [f"## {title}", "", *about, *head, *(_row(info, field) for field in fields), "", *_tables(info, name)]


def _is_table(info: inspect.Type) -> bool:
    return isinstance(bare(info)[0], inspect.StructType)


def _row(info: inspect.StructType, field: inspect.Field) -> str:
    cells = [f"`{field.encode_name}`", describe(field.type), _default(field), description(info.cls, field.encode_name)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "not set" if default is None else f"`{json.dumps(default)}`"
