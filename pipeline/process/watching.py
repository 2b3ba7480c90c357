"""Noticing that files have changed: the configuration, and what it names.

By asking for their state every now and then, not by notifications of the kernel: that works alike on every file
system, those of the network too, and whatever an editor or an orchestrator does (a new file under the old name, a link
that is turned to another folder). A few files cost next to nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from config.schema import Config
from config.secrets import FILE

INTERVAL_S = 0.5

_State = tuple[int, int, int, int] | None  # of a file; None for one that is not there


async def watch(
    paths: Callable[[], Iterable[Path]], changed: Callable[[], Awaitable[None]], interval: float = INTERVAL_S
) -> None:
    """Calls `changed` whenever one of the files is another one, or has other contents, and then stays as it is for an
    interval: whoever writes several of them may take a moment. Files that are named from then on count as they are by
    then. Runs until it is cancelled; `changed` is not interrupted by further changes, which count after it.
    """
    seen = last = await _look(paths)
    while True:
        await asyncio.sleep(interval)
        now = await _look(paths)
        at_rest, last = now == last, now
        seen = {path: seen.get(path, state) for path, state in now.items()}
        if at_rest and now != seen:
            seen = now
            await changed()


def files_of(path: Path, config: Config) -> list[Path]:
    """The configuration's file `path`, and what `config` names besides: templates, certificates, secrets."""
    sections = (config.server, config.admin)
    names = [name for section in sections for name in (section.tls_certificate, section.tls_key) if name is not None]
    names += [route.template_file for route in config.routes if route.template_file is not None]
    references = [config.admin.token, *(getattr(worker, "api_key", None) for worker in config.workers)]
    names += [reference.removeprefix(FILE) for reference in references if reference and reference.startswith(FILE)]
    return [path, *map(Path, dict.fromkeys(names))]


async def _look(paths: Callable[[], Iterable[Path]]) -> dict[Path, _State]:
    """In a thread: a file system of the network may take its time."""
    names = list(paths())
    return await asyncio.to_thread(lambda: {path: _state(path) for path in names})


def _state(path: Path) -> _State:
    """Of the file at the end of all links. Its inode tells of a new file under the old name, whatever its times say."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
