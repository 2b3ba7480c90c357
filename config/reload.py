"""What is different between two configurations, and what of that a running daemon can take.

`APPLIES_LIVE` is the one place that says which keys need a restart: those of what a process has only once (its port,
its folder, its processes), and of what cannot be swapped under requests that are on their way through it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from config.crosscheck import Crosscheck
from config.errors import ConfigError, Problem
from config.findings import Findings
from config.paths import quote
from config.schema import Config
from config.show import MASK
from config.source import Source

TABLES = ("workers", "routes", "collections", "keys")
_TLS_FILES = [(section, key) for section in ("server", "admin") for key in ("tls_certificate", "tls_key")]
WITH_THE_REST = "together with the keys that keep their value until a restart"

APPLIES_LIVE: Mapping[str, bool] = {
    "server.host": False,
    "server.port": False,
    "server.shards": False,
    "server.pin_cores": False,
    "server.tls_certificate": True,  # but for TLS or none, see `needs_restart`
    "server.tls_key": True,
    "server.data_dir": False,
    "server.backlog": False,
    "server.max_connections": True,
    "server.max_head_bytes": True,
    "server.max_body_bytes": True,
    "server.head_timeout_ms": True,
    "server.body_timeout_ms": True,
    "server.idle_timeout_ms": True,
    "server.deadline_ms": True,
    "server.max_deadline_ms": True,
    "server.anonymous": True,
    "server.anonymous_class": True,
    "server.hold_max_ms": True,
    "server.keepalive_comment_ms": True,
    "server.drain_timeout_ms": True,
    "server.start_timeout_ms": False,
    "server.stall_ms": True,
    "server.blocked_ms": False,
    "server.restart_limit": False,
    "server.reload_on_change": False,
    "admin.enabled": False,
    "admin.host": False,
    "admin.port": False,
    "admin.token": True,
    "admin.tls_certificate": True,
    "admin.tls_key": True,
    "stages": True,
    "admission.wait_budget_ms": True,
    "admission.codel": True,
    "admission.codel_interval_ms": True,
    "admission.fair": True,
    "admission.head_gate": False,
    "knowledge": False,
    "logging.level": True,
    "logging.format": False,
    "logging.prompts": False,
    "logging.refusals_per_s": False,
    "workflows": False,
    "workers": True,
    "routes": True,
    "collections": False,
    "keys": True,
}


class Difference(Struct, frozen=True):
    """A key whose value is another one: `path` names tables by their name, as in `routes[docs-qa].deadline_ms`; a table
    that came or went is one entry, with its keys that are not at their defaults. None stands for "not there". Values
    of headers are hidden; secrets are references."""

    path: str
    before: Any
    after: Any
    restart: bool


def needs_restart(key: str, before: Any, after: Any) -> bool:
    """Whether a new value of a key (`server.port`, `workers.base_url`) has to wait. Raises KeyError for an unknown one.

    A listener either speaks TLS or does not; only the certificate can be exchanged while it is open.
    """
    if key.endswith((".tls_certificate", ".tls_key")) and None in (before, after):
        return True
    known = next((prefix for prefix in _prefixes(key) if prefix in APPLIES_LIVE), key)
    return not APPLIES_LIVE[known]


def differences(old: Config, new: Config) -> list[Difference]:
    """In the order of the schema; tables in their new order, those that went at the end. The order itself means
    nothing."""
    found: list[Difference] = []
    for field in fields(Config):
        name = field.encode_name
        before, after = getattr(old, field.name), getattr(new, field.name)
        found += _tables(name, before, after) if name in TABLES else _keys(name, name, before, after)
    return found


def merged(old: Config, new: Config) -> Config:
    """What is in force once `new` has been applied: `new`, in which the keys that need a restart are as they were.

    Raises ConfigError where that does not fit together: a route that wants a collection which is not there before a
    restart, say. Then `new` can only be had by a restart.
    """
    kept = {
        field.name: _kept(field.encode_name, getattr(old, field.name), getattr(new, field.name))
        for field in fields(Config)
    }
    config = Config(**kept)
    if config != new:
        _check(config)
    return config


def other_contents(old: Config, new: Config, was: Config, will_be: Config) -> list[Difference]:
    """Files that have the same name in `old` and `new`, and other contents. `was` and `will_be` are the same
    configurations with the contents in place of the names. Nothing is shown of what is in a file."""
    found: list[Difference] = []
    for section, key in _TLS_FILES:
        names = [getattr(getattr(config, section), key) for config in (old, new)]
        contents = [getattr(getattr(config, section), key) for config in (was, will_be)]
        found += _other_content(f"{section}.{key}", names, contents)
    before, then = ({route.name: route for route in config.routes} for config in (old, was))
    for route, written in zip(new.routes, will_be.routes, strict=True):
        if route.name in before:
            names = [before[route.name].template_file, route.template_file]
            found += _other_content(
                f"routes[{route.name}].template_file", names, [then[route.name].template, written.template]
            )
    return found


def _other_content(path: str, names: list[str | None], contents: list[str | None]) -> Iterator[Difference]:
    if names[0] is not None and names[0] == names[1] and contents[0] != contents[1]:
        yield Difference(path, names[0], f"{names[0]}, with other contents", restart=False)


def _tables(name: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Difference]:
    if old == new:  # 100,000 keys need not be looked at one by one
        return
    before, after = ({table.name: table for table in tables} for tables in (old, new))
    for table in dict.fromkeys([*after, *before]):
        path = f"{name}[{table}]"
        left, right = before.get(table), after.get(table)
        if type(left) is type(right):
            yield from _keys(path, name, left, right)
        else:  # it came, it went, or it is of another kind
            yield Difference(path, _summary(left), _summary(right), needs_restart(name, left, right))


def _keys(path: str, key: str, before: Any, after: Any) -> Iterator[Difference]:
    """`path` is what is shown, `key` the same without the names of tables."""
    if before == after:
        return
    if isinstance(before, Struct) and type(before) is type(after):
        for field in fields(before):
            inner = field.encode_name
            values = getattr(before, field.name), getattr(after, field.name)
            yield from _keys(f"{path}.{inner}", f"{key}.{inner}", *values)
    elif isinstance(before, dict):
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                left, right = (MASK if name in values else None for values in (before, after))
                yield Difference(f"{path}.{quote(name)}", left, right, needs_restart(key, before, after))
    else:
        restart = needs_restart(key, before, after)
        yield Difference(path, msgspec.to_builtins(before), msgspec.to_builtins(after), restart)


def _summary(table: Struct | None) -> dict[str, Any] | None:
    if table is None:
        return None
    config = table.__struct_config__
    summary: dict[str, Any] = {config.tag_field: config.tag} if config.tag_field else {}
    for field in fields(table):
        value = getattr(table, field.name)
        if isinstance(value, dict):
            value = dict.fromkeys(value, MASK)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if value != default:
            summary[field.encode_name] = msgspec.to_builtins(value)
    return summary


def _kept(key: str, old: Any, new: Any) -> Any:
    """The new value with what needs a restart as it was."""
    if not isinstance(new, Struct):
        return old if needs_restart(key, old, new) else new
    changes = {
        field.name: _kept(f"{key}.{field.encode_name}", getattr(old, field.name), getattr(new, field.name))
        for field in fields(new)
    }
    return replace(new, **changes)


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


def _check(config: Config) -> None:
    findings = Findings(Source(Path(), ""))
    Crosscheck(config, Path(), findings).run()
    try:
        findings.raise_if_any()
    except ConfigError as error:
        problems: list[Problem] = [replace(problem, where=WITH_THE_REST) for problem in error.problems]
        raise ConfigError(problems) from None
