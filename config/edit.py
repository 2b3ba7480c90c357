"""Changes to a configuration that is in force: another one is made, and checked as a file would be.

Each function leaves the configuration that it is given as it is. Raises ConfigError when what would come of the change
is no valid configuration: key paths then name a table (`workers[big].model`) where a file's have its number.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec.structs import fields

from config.crosscheck import Crosscheck
from config.errors import ConfigError, Problem
from config.findings import Findings
from config.paths import KeyPath, quote
from config.schema import WORKER_FILES, AnyWorker, Config, RouteSection
from config.secrets import FILE
from config.show import MASK
from config.source import Source
from config.structure import draft

Tree = dict[str, Any]
Named = TypeVar("Named", AnyWorker, RouteSection)

_WORKERS = {str(section.__struct_config__.tag): section for section in get_args(AnyWorker)}
_NUMBERED = re.compile(r"(?<![.\w])(workers|routes|collections|keys)\[(\d+)\]")
_FILES = {"workers": (*WORKER_FILES, "folder"), "routes": ("template_file",)}  # keys that name one
_SHOWN = 10  # names


class NotConfigured(Exception):
    """There is nothing of that name. `known` is what there is."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        super().__init__(f"There is no {kind} {quote(name[:80])}: there is {listed or 'none'}")
        self.kind = kind


class InUse(Exception):
    """A worker cannot be removed while `users` need it: routes or collections."""

    def __init__(self, worker: str, users: Sequence[str], message: str) -> None:
        super().__init__(f"The worker {quote(worker)} {message}: {', '.join(users)}")
        self.users = users


def table_of(section: msgspec.Struct) -> Tree:
    """A table of the configuration as a file would say it."""
    table: Tree = _without_none(msgspec.to_builtins(section))
    return table


def shown(section: msgspec.Struct) -> Tree:
    """The same for people's eyes: no value of a header."""
    table = table_of(section)
    if "headers" in table:
        table["headers"] = dict.fromkeys(table["headers"], MASK)
    return table


def put_worker(config: Config, name: str, table: Tree) -> Config:
    """Adds a worker, or replaces the one of that name. A header whose value is the mask keeps the one that it has."""
    old = next((worker for worker in config.workers if worker.name == name), None)
    known: Mapping[str, str] = getattr(old, "headers", {})
    headers = table.get("headers")
    if isinstance(headers, dict):
        masked = [header for header, value in headers.items() if value == MASK]
        lost = [f"workers[{name}].headers.{header}" for header in masked if header not in known]
        if lost:
            raise ConfigError([Problem(path, "a value that was hidden", "the value itself") for path in lost])
        table = table | {"headers": headers | {header: known[header] for header in masked}}
    return _put(config, "workers", name, table)


def put_route(config: Config, name: str, table: Tree) -> Config:
    """Adds a route, or replaces the one of that name."""
    return _put(config, "routes", name, table)


def drain_worker(config: Config, name: str, *, drain: bool) -> Config:
    """Raises NotConfigured."""
    table = table_of(find_worker(config, name))
    return _put(config, "workers", name, table | {"drain": drain})


def remove_worker(config: Config, name: str, *, force: bool) -> Config:
    """Also takes it out of routes that have others, and out of their fallbacks, with `force`. Raises NotConfigured,
    InUse."""
    find_worker(config, name)
    embedding = [collection.name for collection in config.collections if collection.embedder == name]
    if embedding:
        raise InUse(name, embedding, "is the embedder of these collections")
    using = [route.name for route in config.routes if name in route.all_workers]
    alone = [route.name for route in config.routes if [share.worker for share in route.shares] == [name]]
    if alone and force:
        raise InUse(name, alone, "is the only one of these routes")
    if using and not force:
        raise InUse(name, using, "is used by these routes")

    def change(tree: Tree) -> None:
        tree["workers"] = [table for table in tree["workers"] if table["name"] != name]
        for table in tree["routes"]:
            table["workers"] = [share for share in table["workers"] if share["worker"] != name]
            table["fallback"] = [worker for worker in table["fallback"] if worker != name]

    return edited(config, change)


def remove_route(config: Config, name: str) -> Config:
    """Raises NotConfigured."""
    find_route(config, name)

    def change(tree: Tree) -> None:
        tree["routes"] = [table for table in tree["routes"] if table["name"] != name]

    return edited(config, change)


def weigh(config: Config, name: str, weights: Mapping[str, Any]) -> Config:
    """Other weights for these workers of a route; None takes one out, one that the route does not have is added.
    Raises NotConfigured."""
    route = find_route(config, name)
    known = [worker.name for worker in config.workers]
    for worker in weights:
        if worker not in known:
            raise NotConfigured("worker", worker, known)
    merged = {share.worker: share.weight for share in route.shares} | dict(weights)
    shares = [{"worker": worker, "weight": weight} for worker, weight in merged.items() if weight is not None]
    table = {key: value for key, value in table_of(route).items() if key != "worker"}
    return _put(config, "routes", name, table | {"workers": shares})


def find_worker(config: Config, name: str) -> AnyWorker:
    """Raises NotConfigured."""
    return _find(config.workers, "worker", name)


def find_route(config: Config, name: str) -> RouteSection:
    """Raises NotConfigured."""
    return _find(config.routes, "route", name)


def edited(config: Config, change: Callable[[Tree], None]) -> Config:
    """What becomes of the configuration when its tree is changed."""
    tree = table_of(config)
    change(tree)
    findings = Findings(_source(tree))
    checked = draft(tree, findings)
    _absolute(tree, findings)
    Crosscheck(checked, Path.cwd(), findings).run()
    try:
        findings.raise_if_any()
    except ConfigError as error:
        raise ConfigError([_named(problem, tree) for problem in error.problems]) from None
    return msgspec.convert(tree, Config)


def _find(sections: Sequence[Named], kind: str, name: str) -> Named:
    for section in sections:
        if section.name == name:
            return section
    raise NotConfigured(kind, name, [section.name for section in sections])


def _put(config: Config, kind: str, name: str, table: Tree) -> Config:
    section = _WORKERS.get(str(table.get("kind"))) if kind == "workers" else RouteSection
    table = {"name": name} | _unset(table, section)

    def change(tree: Tree) -> None:
        names = [one["name"] for one in tree[kind]]
        if name in names:
            tree[kind][names.index(name)] = table
        else:
            tree[kind].append(table)

    return edited(config, change)


def _unset(table: Tree, section: type[msgspec.Struct] | None) -> Tree:
    """In JSON null says that a key is not set. A key that there is not is left, for the check to find it."""
    known = {field.encode_name for field in fields(section)} if section is not None else set()
    return {key: value for key, value in table.items() if value is not None or key not in known}


def _source(tree: Tree) -> Source:
    source = Source(Path(), "")
    source.tree = tree
    return source


def _absolute(tree: Tree, findings: Findings) -> None:
    """A file's names are relative to its folder; here there is none that they could be relative to. What a file said
    has been made absolute when it was read."""
    for path, value in _named_files(tree):
        if not Path(value.removeprefix(FILE)).is_absolute() and findings.sound(path):
            findings.add(path, quote(value), "a path from the root: there is no file beside it")


def _named_files(tree: Tree) -> Iterator[tuple[KeyPath, str]]:
    """Every text that names one, with its key path."""
    for kind, keys in _FILES.items():
        for index, table in enumerate(tree[kind]):
            if not isinstance(table, dict):
                continue
            for key in keys:
                if isinstance(table.get(key), str):
                    yield (kind, index, key), table[key]
            headers = table.get("headers")
            for name, value in headers.items() if isinstance(headers, dict) else ():
                yield from _reference((kind, index, "headers", name), value)
            yield from _reference((kind, index, "api_key"), table.get("api_key"))


def _reference(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str) and value.startswith(FILE):
        yield path, value


def _named(problem: Problem, tree: Tree) -> Problem:
    def name(match: re.Match[str]) -> str:
        kind, index = match[1], int(match[2])
        table = tree[kind][index] if index < len(tree[kind]) else None
        known = table.get("name") if isinstance(table, dict) else None
        return f"{kind}[{known}]" if isinstance(known, str) and known.isprintable() else match[0]

    path, expected = _NUMBERED.sub(name, problem.path), _NUMBERED.sub(name, problem.expected)
    return msgspec.structs.replace(problem, path=path, expected=expected, where="")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value
