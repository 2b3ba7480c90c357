"""The configuration that workflows run with where there is none: it needs no model and no key."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from config.schema import Config

ROUTES = ("echo", "extractive")
# Collections of the routes; others are made as a workflow names them.
DOCUMENTS = "documents"


def builtin(collections: Iterable[str], data_dir: Path, *, durable: bool) -> Config:
    """Routes `echo`, and `extractive` over the collection `documents`. `durable`: collections outlive the process."""
    names = dict.fromkeys([DOCUMENTS, *collections])
    store = "embedded" if durable else "memory"
    return msgspec.convert(
        {
            "server": {"data_dir": str(data_dir)},
            "logging": {"level": "warning"},
            "workers": [{"name": name, "kind": name} for name in ROUTES],
            "routes": [
                {"name": "echo", "worker": "echo"},
                {"name": "extractive", "worker": "extractive", "collection": DOCUMENTS},
            ],
            "collections": [{"name": name, "store": store, "embedder": "lexical"} for name in names],
        },
        Config,
    )


def collections_in(tree: Any) -> set[str]:
    """The collections that a definition names, as far as they are written out."""
    found: set[str] = set()
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            name = part.get("collection")
            if isinstance(name, str) and "{{" not in name and "{%" not in name:
                found.add(name)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found
