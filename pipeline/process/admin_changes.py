"""What the admin API changes of a running daemon: one thing at a time, each on top of the one before."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from config import edit
from config.errors import ConfigError
from config.schema import Config
from pipeline.process.admin_errors import Conflict, NotThere, Refused
from pipeline.process.admin_types import Changed
from pipeline.process.control import Applied, Control, ReloadFailed
from pipeline.process.errors import StartError

Result = TypeVar("Result")


class Changes:
    """`control` is the supervisor's. A change that has begun goes on to its end, also when its caller leaves: what has
    been prepared on some shards must be put in force or taken back."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def edit(self, change: Callable[[Config], Config]) -> Changed:
        """Raises NotThere, Conflict, Refused."""
        return await self._finish(self._edit(change))

    async def reload(self) -> Changed:
        """Raises Conflict, Refused."""
        return await self._finish(self._reload())

    async def replace(self) -> None:
        """Raises Conflict. Other changes need not wait for it: the supervisor knows which of them can."""
        await self._finish(self._control.replace())

    async def _edit(self, change: Callable[[Config], Config]) -> Changed:
        async with self._one_at_a_time:
            # In a thread: to check a configuration of 100,000 keys takes seconds.
            config = await asyncio.to_thread(change, self._control.config)
            return _changed(await self._control.apply(config), persistent=False)

    async def _reload(self) -> Changed:
        async with self._one_at_a_time:
            return _changed(await self._control.reload(), persistent=True)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except ConfigError as error:
            raise Refused(error.problems) from error
        except edit.NotConfigured as error:
            raise NotThere(f"unknown_{error.kind}", str(error)) from error
        except edit.InUse as error:
            raise Conflict("in_use", str(error)) from error
        except ReloadFailed as error:
            raise Conflict("not_applied", str(error)) from error
        except StartError as error:
            raise Conflict("not_replaced", f"{error} The processes that were there go on") from error

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; where nobody does, it is not for asyncio to complain


def _changed(applied: Applied, *, persistent: bool) -> Changed:
    return Changed(persistent, applied.changed, applied.restart)
