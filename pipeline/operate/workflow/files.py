"""Definitions in files: read, checked with those that they call, planned."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from config.load import load
from config.schema import Config
from pipeline.operate.workflow import exits
from pipeline.operate.workflow.builtin import builtin, collections_in
from pipeline.wiring.catalog import ConfigCatalog
from pipeline.workflow.checking import Readable, examine, resolve
from pipeline.workflow.definition import MAX_BYTES, Definition
from pipeline.workflow.errors import DefinitionRefused, Fault, UnknownWorkflow
from pipeline.workflow.plan import Plan
from pipeline.workflow.ports import Catalog
from pipeline.workflow.source import read
from pipeline.workflow.steps import custom_kinds

_SUFFIXES = (".yaml", ".yml", ".json")


class FileLibrary:
    """Finds the workflows that one calls beside its file: by a path from there, or by name where a file of that name is
    there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def definition(self, reference: str) -> Definition:
        """Raises `UnknownWorkflow`, `DefinitionRefused`."""
        path = self._path(reference)
        readable = read(await asyncio.to_thread(_bytes, path), name=path.name)
        if readable.definition is None or readable.faults:
            raise DefinitionRefused(list(readable.faults))
        return readable.definition

    def _path(self, reference: str) -> Path:
        name, _, version = reference.partition("@")
        wanted = [reference] if name.endswith(_SUFFIXES) else [name + suffix for suffix in _SUFFIXES]
        for one in wanted if not version else []:
            path = self._folder / one
            if path.is_file():
                return path
        raise UnknownWorkflow(f"There is no file for the workflow {reference[:300]!r} in {self._folder}")


class Checked(NamedTuple):
    """`plan` is None where there are faults; `definition` where it could not be read at all."""

    text: bytes
    definition: Definition | None
    faults: list[Fault]
    plan: Plan | None


def checked(file: Path, catalog: Catalog | None) -> Checked:
    """Without a catalog routes and collections are not looked at. Raises `exits.Ended` for a file that cannot be
    read."""
    text, kinds = _content(file), custom_kinds()
    readable: Readable = read(text, name=file.name, kinds=kinds)
    if readable.definition is None:
        return Checked(text, None, list(readable.faults), None)
    others = asyncio.run(resolve(readable.definition, FileLibrary(file.parent)))
    examined = examine(readable, others=others, catalog=catalog, kinds=kinds)
    return Checked(text, readable.definition, examined.faults, examined.plan)


def read_only(file: Path) -> Checked:
    """For a daemon, which does the checking: it knows which workflows can be called there. Raises `exits.Ended`, also
    for what is no definition at all."""
    text = _content(file)
    readable = read(text, name=file.name, kinds=custom_kinds())
    if readable.definition is None:
        raise exits.refused(readable.faults, file)
    return Checked(text, readable.definition, [], None)


def configured(config_file: Path | None, trees: Any, data_dir: Path, *, durable: bool = False) -> Config:
    """The configuration that is named, by the option or by HEADGATE_CONFIG; else the built-in one with the collections
    that `trees` name. Raises ConfigError."""
    if config_file is not None or os.environ.get("HEADGATE_CONFIG"):
        return load(config_file).config
    return builtin(collections_in(trees), data_dir, durable=durable)


def catalog_for(config_file: Path | None, file: Path) -> ConfigCatalog:
    """Raises ConfigError, and `exits.Ended` for a file that cannot be read."""
    return ConfigCatalog(configured(config_file, tree_of(file), Path()))


def tree_of(file: Path) -> Mapping[str, Any]:
    """What a file says, and what those say that it calls; empty where it is no definition."""
    definition = read(_content(file), name=file.name).definition
    if definition is None:
        return {}
    others = asyncio.run(resolve(definition, FileLibrary(file.parent)))
    return {name: msgspec.to_builtins(one) for name, one in {"": definition, **others}.items()}


def _content(file: Path) -> bytes:
    try:
        return _bytes(file)
    except OSError as error:
        raise exits.Ended(f"cannot read {file}: {error.strerror}", exits.REFUSED) from error


def _bytes(file: Path) -> bytes:
    """No more than what is refused for its size."""
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)
