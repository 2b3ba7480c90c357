"""From file and environment to the configuration in force: TOML → overrides → checks → structs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from config.crosscheck import MAX_TEMPLATE_BYTES, Crosscheck
from config.environment import apply
from config.errors import ConfigError, Problem, Unreadable
from config.files import Stamp, read_text, stamp
from config.findings import Findings
from config.paths import dotted, leaves
from config.schema import WORKER_FILES, Config, PythonWorker, RouteSection
from config.secrets import FILE
from config.source import find, read
from config.structure import draft


class Loaded(NamedTuple):
    """`origins` says for each key path of `config` where its value comes from: `default`, `file pipeline.toml` or
    `environment HEADGATE__…`. `path` is the file, `stamp` what it was when it was read, or just before."""

    config: Config
    origins: dict[str, str]
    path: Path
    stamp: Stamp


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """The configuration in force. Without a path, the file that HEADGATE_CONFIG names, else ./pipeline.toml.

    Files that it names are relative to the configuration file's folder and come back absolute.
    Raises ConfigError with every problem there is. Secrets are not looked up: that is `config.secrets.resolve`.
    """
    return traced(path, environ)[0]


def traced(path: Path | None = None, environ: Mapping[str, str] | None = None) -> tuple[Loaded, Findings]:
    """The same, with what knows the lines of the file (`Findings.placed`)."""
    variables = os.environ if environ is None else environ
    found, named_by = find(path, variables)
    before = stamp(found)
    source = read(found, named_by)
    findings = Findings(source)
    apply(source.tree, variables, findings)
    folder = source.path.parent.absolute()
    Crosscheck(draft(source.tree, findings), folder, findings).run()
    findings.raise_if_any()
    config = msgspec.convert(source.tree, Config)
    origins = {dotted(key): findings.origin(key) for key, _ in leaves(config)}
    _anchor(source.tree, folder)
    config = msgspec.convert(source.tree, Config)
    return Loaded(config, origins, source.path, before), findings


def encode(config: Config) -> bytes:
    """The configuration as JSON, without loss: how the supervisor hands it to its child processes."""
    return msgspec.json.encode(config)


def decode(data: bytes) -> Config:
    """What `encode` made. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(data, type=Config)


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make the files that a checked configuration refers to independent of where its reader runs."""
    admin, server = tree.get("admin", {}), tree.get("server", {})
    for section, key in [
        (admin, "token"),
        *((section, "api_key") for section in [*tree["workers"], *tree.get("collections", [])]),
    ]:
        reference = section.get(key, "")
        if reference.startswith(FILE):
            section[key] = FILE + str(folder / reference.removeprefix(FILE))
    for section in (admin, server):
        for key in ("tls_certificate", "tls_key"):
            if key in section:
                section[key] = str(folder / section[key])
    for worker in tree["workers"]:
        _anchor_worker(worker, folder)
    for route in tree["routes"]:
        if "template_file" in route:
            route["template_file"] = str(folder / route["template_file"])


def _anchor_worker(worker: dict[str, Any], folder: Path) -> None:
    for key in WORKER_FILES:
        if key in worker:
            worker[key] = str(folder / worker[key])
    if worker.get("kind") == PythonWorker.__struct_config__.tag:
        worker["folder"] = str(folder / worker.get("folder", ""))
    for name, value in worker.get("headers", {}).items():
        if value.startswith(FILE):
            worker["headers"][name] = FILE + str(folder / value.removeprefix(FILE))


def self_contained(config: Config) -> Config:
    """The same with the text of template files in place of their names, so that a process that starts later runs what
    was checked, whatever became of the files. Raises ConfigError."""
    problems: list[Problem] = []
    routes: list[RouteSection] = []
    for index, route in enumerate(config.routes):
        try:
            routes.append(_with_text(route))
        except Unreadable as unreadable:
            path = dotted(("routes", index, "template_file"))
            problems.append(Problem(path, f"{route.template_file}: {unreadable.found}", unreadable.expected))
    if problems:
        raise ConfigError(problems)
    return msgspec.structs.replace(config, routes=routes)


def _with_text(route: RouteSection) -> RouteSection:
    if route.template_file is None:
        return route
    text = read_text(Path(route.template_file), MAX_TEMPLATE_BYTES)
    return msgspec.structs.replace(route, template=text, template_file=None)
