"""Checks of the workflows' section: limits that contradict each other, ports that are none, a journal that shards
cannot share."""

from config.checks import Checks
from config.paths import quote

_PATH = ("workflows",)
_MOST = 65_535


class WorkflowChecks(Checks):
    """All of them."""

    def run(self) -> None:
        self._at_most((*_PATH, "max_steps_per_run"), (*_PATH, "max_steps"))
        self._at_most((*_PATH, "inline_value_bytes"), (*_PATH, "max_value_bytes"))
        self._memory()
        for index, host in enumerate(self._config.workflows.hosts):
            self._host(host, index)

    def _memory(self) -> None:
        """A run is asked for at any shard; only a file is common to all of them."""
        section, here, shards = self._config.workflows, (*_PATH, "journal"), ("server", "shards")
        if not (section.enabled and section.journal == "memory" and self._findings.sound(here, shards)):
            return
        if self._config.server.shards != 1:
            self._findings.add(here, '"memory"', '"sqlite", or server.shards = 1: shards have no memory in common')

    def _host(self, host: str, index: int) -> None:
        here = (*_PATH, "hosts", index)
        port = host.rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
        if self._findings.sound(here) and port and not 0 < int(port) <= _MOST:
            self._findings.add(here, quote(host), "a port from 1 to 65,535 after the colon")
