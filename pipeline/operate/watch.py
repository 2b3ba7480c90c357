"""The same picture again and again, for `headgate status --watch`."""

import asyncio
from collections.abc import Awaitable, Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.operate.client import OperateFailed

_EVERY_S = 1.0


async def watch(picture: Callable[[], Awaitable[RenderableType]], *, lines: bool) -> None:
    """Until it is interrupted. A daemon that does not answer may come back: that it does not is shown in the picture's
    place. With `lines` each picture is printed below the one before, as it is, for programs."""
    if lines:
        await _print(picture)
        return
    with Live(console=Console(highlight=False), auto_refresh=False, transient=False) as live:
        while True:
            try:
                shown = await picture()
            except OperateFailed as error:
                shown = Text(str(error), style="red")
            live.update(shown, refresh=True)
            await asyncio.sleep(_EVERY_S)


async def _print(picture: Callable[[], Awaitable[RenderableType]]) -> None:
    while True:
        print(await picture(), flush=True)  # noqa: T201 - what the command is for
        await asyncio.sleep(_EVERY_S)
