"""What the checks between keys have in common."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from config.findings import Findings
from config.paths import KeyPath, dotted
from config.schema import Config
from config.secrets import FORMS, fault
from config.shape import shown


class Checks:
    """`config` is a draft (see `config.structure`), `folder` the one that relative files are looked for in."""

    def __init__(self, config: Config, folder: Path, findings: Findings) -> None:
        self._config = config
        self._folder = folder
        self._findings = findings

    def _at_most(self, path: KeyPath, limit: KeyPath, *, equal: bool = True) -> None:
        """The number at `path` must not be above the one at `limit`, nor be it unless `equal`."""
        value, most = self._at(path), self._at(limit)
        if value is None or not self._findings.sound(path, limit) or value < most + equal:
            return
        relation = "at most" if equal else "less than"
        self._findings.add(path, str(value), f"{relation} {most:,}, which is {dotted(limit)}", beside=limit)

    def _at(self, path: KeyPath) -> Any:
        value: Any = self._config
        for part in path:
            value = value[part] if isinstance(part, int) else getattr(value, part)
        return value

    def _secret(self, path: KeyPath) -> None:
        reference = self._at(path)
        wrong = fault(reference) if reference is not None and self._findings.sound(path) else None
        if wrong is not None:
            self._findings.add(path, wrong.found, FORMS, wrong.hint)

    def _address(self, path: KeyPath) -> None:
        address = self._at(path)
        if address is None or not self._findings.sound(path):
            return
        try:
            parts = urlsplit(address)
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port beyond 65535, half an IPv6 address
            usable = False
        if "@" in address:
            self._findings.add(path, shown(address, path), "an address without credentials; api_key refers to a secret")
        elif not usable:
            self._findings.add(path, shown(address, path), "an address with a host, and a port from 1 to 65,535 if any")
