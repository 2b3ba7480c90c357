"""A shard with a fault, started in place of the real one. TROUBLE in the environment says which, and whose."""

import asyncio
import os
from pathlib import Path

from pipeline.process import shard
from pipeline.process.child import Child, run


async def main(child: Child) -> None:
    kind, *whose = os.environ["TROUBLE"].split()
    if str(child.inheritance.shard) in whose:
        if kind == "dies-at-start":
            os._exit(7)
        if kind == "dies-later":
            asyncio.get_running_loop().call_later(0.3, os._exit, 7)
        if kind == "waits":
            await until_there(Path(child.config.server.data_dir) / "go")
        if kind == "blocks":
            child.trouble = asyncio.create_task(block_when_asked(Path(child.config.server.data_dir) / "block"))
    await shard.main(child)


async def until_there(file: Path) -> None:
    while not file.exists():
        await asyncio.sleep(0.01)


async def block_when_asked(file: Path) -> None:
    """The first one that finds the file."""
    await until_there(file)
    file.unlink()
    spin_for_ever()


def spin_for_ever() -> None:
    while True:
        pass


if __name__ == "__main__":
    run(main)
