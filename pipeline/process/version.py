"""A configuration with what is in the files that it names, as they were when it came into force."""

from hashlib import sha256
from typing import NamedTuple

from config.load import encode
from config.reload import Difference, differences, other_contents
from config.schema import Config
from config.secrets import FILE, resolve, worker_references
from pipeline.process.tls import carried


class Version(NamedTuple):
    """`named` refers to files, `whole` is the same with their contents (see `tls.carried`). `secrets` are
    references to files with fingerprints of what is in them, by key path."""

    named: Config
    whole: Config
    secrets: dict[str, tuple[str, bytes]]

    @classmethod
    def of(cls, config: Config) -> "Version":
        """Reads the files. Raises ConfigError."""
        return cls(config, carried(config), _fingerprints(config))

    @property
    def encoded(self) -> bytes:
        """For shards."""
        return encode(self.whole)

    def differences(self, then: "Version", wanted: Config) -> list[Difference]:
        """Between this one and `then`, which is what can be had of `wanted` without a restart."""
        found = differences(self.named, wanted)
        found += other_contents(self.named, then.named, self.whole, then.whole)
        return found + self._other_secrets(then)

    def _other_secrets(self, then: "Version") -> list[Difference]:
        """Those that are in the same file as before and are others."""
        found: list[Difference] = []
        for path, (reference, fingerprint) in then.secrets.items():
            known, before = self.secrets.get(path, ("", b""))
            if known == reference and before != fingerprint:
                found.append(Difference(path, reference, f"{reference}, with other contents", restart=False))
        return found


def _fingerprints(config: Config) -> dict[str, tuple[str, bytes]]:
    """Collections' secrets are not among them: those are the knowledge process's, and need a restart."""
    sections: list[tuple[str, str, str | None]] = [("admin.token", "admin.token", config.admin.token)]
    for position, worker in enumerate(config.workers):
        for path, reference in worker_references(worker, position):
            sections.append((path.replace(f"[{position}]", f"[{worker.name}]", 1), path, reference))
    return {
        name: (reference, sha256(resolve(reference, path=path).encode()).digest())
        for name, path, reference in sections
        if reference is not None and reference.startswith(FILE)
    }
