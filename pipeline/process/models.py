"""The processes that serve models, one for each `llama-cpp` worker of the configuration in force."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from msgspec import structs

from config.schema import Config, LlamaCppWorker
from pipeline.process import library_log
from pipeline.process.child import Inheritance
from pipeline.process.counters import SharedMemory, State
from pipeline.process.handout import HandoutFile
from pipeline.process.keeper import Keeper, Limits
from pipeline.process.link import Message, SetLevel
from pipeline.process.process import Process
from pipeline.process.seats import OneSeat
from workers import llama_files
from workers.llama_files import Files, Note

_MODULE = "pipeline.process.model"
_AGAIN = 1.0  # seconds after which a process is tried again that the system would not start

log = structlog.get_logger()


class Models:
    """`given` is what children inherit, `grace` how long one may take for ending, in seconds, beyond what shards get
    for their requests. `level` says what they are to log, None: as configured.

    A daemon serves without them: one that is not there costs the routes of its worker, which say why. Where a worker
    has changed, its old process ends before the new one begins: the machine may not have room for the model twice.
    """

    def __init__(self, given: Inheritance, handout: HandoutFile, grace: float, level: Callable[[], str | None]) -> None:
        self._given = given
        self._handout = handout
        self._grace = grace
        self._level = level
        self._config: Config | None = None
        self._models: dict[str, _Model] = {}  # by the worker's name
        self._wanted: dict[str, LlamaCppWorker] = {}
        self._changing: dict[str, asyncio.Task[None]] = {}

    @property
    def keepers(self) -> list[Keeper]:
        return [model.keeper for model in self._models.values()]

    def sweep(self, data_dir: Path) -> None:
        """Removes what a daemon that was killed has left. The data folder's lock must be held."""
        for path in (data_dir / llama_files.FOLDER).glob("*"):
            path.unlink(missing_ok=True)

    def follow(self, config: Config) -> None:
        """From now on the models of this configuration are to be served; those of others finish their calls."""
        self._config = config
        self._wanted = {worker.name: worker for worker in config.workers if isinstance(worker, LlamaCppWorker)}
        for name in dict.fromkeys([*self._wanted, *self._models]):
            if name not in self._changing and self._differs(name):
                self._changing[name] = asyncio.create_task(self._change(name), name=f"change of model {name}")

    def revive(self) -> None:
        """Tries again what was given up: what was wrong may have been put right."""
        for model in self._models.values():
            model.over |= model.keeper.state is State.GIVEN_UP
        if self._config is not None:
            self.follow(self._config)

    async def stop(self, within: float) -> None:
        """All of them, when no shard needs them any more."""
        await self._hold()
        await asyncio.gather(*(model.keeper.stop(within) for model in self._models.values()))

    async def end(self) -> None:
        """Leaves nothing behind."""
        await self._hold()
        for model in list(self._models.values()):
            await model.keeper.kill()
            self._forget(model)

    async def _hold(self) -> None:
        """Nothing is begun any more."""
        self._wanted = {}
        for task in self._changing.values():
            task.cancel()
        await asyncio.gather(*self._changing.values(), return_exceptions=True)

    def _differs(self, name: str) -> bool:
        model, section = self._models.get(name), self._wanted.get(name)
        if model is None or section is None:
            return (model is None) is not (section is None)
        return model.over or model.files != self._files(section)

    async def _change(self, name: str) -> None:
        try:
            while self._differs(name):
                model, section = self._models.get(name), self._wanted.get(name)
                if model is not None:
                    await self._retire(model)
                elif section is not None:
                    await self._start(section)
        finally:
            del self._changing[name]

    async def _start(self, section: LlamaCppWorker) -> None:
        files = self._files(section)
        try:
            files.note.parent.mkdir(mode=0o700, exist_ok=True)
            memory = SharedMemory.create(shards=1, block=1, seats=0)
        except OSError as error:
            log.error("process_not_started", name=_name(section), because=str(error))  # noqa: TRY400 - no fault of the code
            await asyncio.sleep(_AGAIN)
            return
        config = self._config
        assert config is not None  # noqa: S101 - that is where the section came from
        limits = Limits(section.load_timeout_ms / 1000, config.server.restart_limit)
        self._models[section.name] = model = _Model(section, files, memory, self._level)
        model.begin(partial(self._born, model), limits)

    async def _retire(self, model: "_Model") -> None:
        config = self._config
        assert config is not None  # noqa: S101 - there was one when it began
        await model.keeper.stop(config.server.drain_timeout_ms / 1000 + self._grace)
        log.info("model_stopped", worker=model.section.name)
        self._forget(model)

    def _forget(self, model: "_Model") -> None:
        del self._models[model.section.name]
        for path in (model.files.note, model.files.said):
            path.unlink(missing_ok=True)
        model.memory.close()

    def _files(self, section: LlamaCppWorker) -> Files:
        assert self._config is not None  # noqa: S101 - sections come from it
        return llama_files.files(section, Path(self._config.server.data_dir))

    def _born(self, model: "_Model") -> Inheritance:
        return structs.replace(
            self._given,
            name=_name(model.section),
            shard=-1,
            listener=-1,
            memory=model.memory.descriptor,
            config=self._handout.descriptor,
            edition=self._handout.edition,
            worker=model.section,
        )


class _Model:
    """One of them, and what its process's coming and going means: a `pipeline.process.keeper.Household`."""

    keeper: Keeper

    def __init__(
        self, section: LlamaCppWorker, files: Files, memory: SharedMemory, level: Callable[[], str | None]
    ) -> None:
        self.section = section
        self.files = files
        self.memory = memory
        self.over = False  # it is to be begun anew
        self._level = level

    def begin(self, born: Callable[[], Inheritance], limits: Limits) -> None:
        self._tell(State.STARTING)
        self.keeper = Keeper(_MODULE, born, OneSeat(self.memory.knowledge), limits, self, vital=False)

    def joined(self, process: Process) -> None:
        level = self._level()
        if level is not None:
            process.send(SetLevel(level))

    def heard(self, process: Process, message: Message) -> None:
        """It says nothing but that it is ready."""

    def gone(self, process: Process) -> int:
        """What it had no time to say, it may have died of. Its requests are the shards'."""
        self.files.socket.unlink(missing_ok=True)
        said = library_log.take(self.files.said, serving=process.ready)
        for line in said:
            log.log(line.level, "llama_cpp", worker=self.section.name, said=line.text)
        if process.reason is None:
            process.reason = library_log.first_error(said)
        return 0

    def turned(self, keeper: Keeper) -> None:
        self._tell(keeper.state, keeper.reason)

    def _tell(self, state: State, reason: str = "") -> None:
        with suppress(OSError):  # then calls fail without a reason
            llama_files.write(self.files.note, Note(state.label, reason))


def _name(section: LlamaCppWorker) -> str:
    return f"model {section.name}"
