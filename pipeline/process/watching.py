"""Noticing that files have changed: the configuration, and what it names.

By asking for their state every now and then, not by notifications of the kernel: that works alike on every file
system, those of the network too, and whatever an editor or an orchestrator does (a new file under the old name, a link
that is turned to another folder). A few files cost next to nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from config.files import Stamp, stamp
from config.load import Loaded
from config.schema import Config
from config.secrets import FILE, worker_references

INTERVAL_S = 0.5


async def watch(
    paths: Callable[[], Iterable[Path]],
    changed: Callable[[], Awaitable[None]],
    interval: float = INTERVAL_S,
    *,
    known: Mapping[Path, Stamp] | None = None,
) -> None:
    """Calls `changed` whenever one of the files is another one, or has other contents, and then stays as it is for an
    interval: whoever writes several of them may take a moment. Files that are named from then on count as they are by
    then. Runs until it is cancelled; `changed` is not interrupted by further changes, which count after it. `known` are
    the files as they were when they were read, without it as they are now.
    """
    last = await _look(paths)
    seen = dict(last if known is None else known)
    while True:
        await asyncio.sleep(interval)
        now = await _look(paths)
        at_rest, last = now == last, now
        seen = {path: seen.get(path, state) for path, state in now.items()}
        if at_rest and now != seen:
            seen = now
            await changed()


def as_read(loaded: Loaded) -> dict[Path, Stamp]:
    """The files of a configuration, of which those that it names are still to be read."""
    return {path: stamp(path) for path in files_of(loaded.path, loaded.config)} | {loaded.path: loaded.stamp}


def files_of(path: Path, config: Config) -> list[Path]:
    """The configuration's file `path`, and what `config` names besides and a reload would read again: templates,
    certificates, secrets."""
    sections = (config.server, config.admin)
    names = [name for section in sections for name in (section.tls_certificate, section.tls_key) if name is not None]
    names += [route.template_file for route in config.routes if route.template_file is not None]
    references = [config.admin.token or ""]
    references += [
        secret.reference for index, one in enumerate(config.workers) for secret in worker_references(one, index)
    ]
    names += [reference.removeprefix(FILE) for reference in references if reference.startswith(FILE)]
    return [path, *map(Path, dict.fromkeys(names))]


async def _look(paths: Callable[[], Iterable[Path]]) -> dict[Path, Stamp]:
    """In a thread: a file system of the network may take its time."""
    names = list(paths())
    return await asyncio.to_thread(lambda: {path: stamp(path) for path in names})
