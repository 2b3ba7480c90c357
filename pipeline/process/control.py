"""What operators can ask of a running daemon: the supervisor answers, the admin listener and the commands ask."""

from typing import Any, Protocol

import msgspec

from config.schema import Config
from pipeline.observe.usage import UsageTable


class Change(msgspec.Struct, frozen=True):
    """A key of the configuration with another value: `path` as in `routes[docs-qa].deadline_ms` (tables by name). None
    stands for "not there"; the values of secrets are references and are shown as such."""

    path: str
    before: Any
    after: Any


class Applied(msgspec.Struct, frozen=True):
    """What became of a new configuration: `changed` is in force in all shards, `restart` is not until the daemon is
    started again."""

    changed: list[Change]
    restart: list[Change]


class ReloadFailed(Exception):
    """A new configuration was valid, but could not be put in force, and nothing has changed: a shard did not answer in
    time, or another change was under way. The message says which."""


class Control(Protocol):
    """Implemented by the supervisor. What it shows comes as structs of `pipeline.observe.overview`."""

    @property
    def config(self) -> Config:
        """The one in force."""
        ...

    def metrics(self) -> bytes: ...

    def usage(self) -> UsageTable:
        """Since the start, by key, route and worker."""
        ...

    def status(self) -> Any:
        """A `pipeline.process.desk.DaemonStatus`."""
        ...

    async def reload(self) -> Applied:
        """Reads the file (and the environment) again. Raises ConfigError, ReloadFailed."""
        ...

    async def apply(self, config: Config) -> Applied:
        """Puts another configuration in force, all of it or nothing; a later `reload` takes the file's. Raises
        ConfigError, ReloadFailed."""
        ...

    async def replace(self) -> None:
        """Starts a new process for each shard, one after another, and lets the old ones finish. Raises StartError when
        a new one does not become ready: then the old ones go on. Raises ReloadFailed while one is under way."""
        ...

    def drain(self) -> None:
        """Ends the daemon in good order, as SIGTERM does."""
        ...

    def set_level(self, level: str) -> None:
        """Of the log of all processes, beside the configuration: until the file is read again."""
        ...
