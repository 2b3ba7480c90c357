"""What a new configuration changes in the supervisor itself."""

from collections.abc import Callable
from typing import NamedTuple

from config.errors import ConfigError, Problem
from config.schema import Config
from pipeline.observe.layout import Counted
from pipeline.process import demand
from pipeline.process.crew import Crew
from pipeline.process.desk import Credentials, Desk


class Prepared(NamedTuple):
    counted: Counted
    credentials: Credentials


class Takeover:
    """The supervisor's part in a reload, a `pipeline.process.reloading.House`. `adopted` gets each configuration that
    has come into force, `reread` is called when that is the file's again."""

    def __init__(self, crew: Crew, desk: Desk, adopted: Callable[[Config], None], reread: Callable[[], None]) -> None:
        self._crew = crew
        self._desk = desk
        self._adopted = adopted
        self.reread = reread

    @property
    def edition(self) -> int:
        """Of the configuration that processes are born with now."""
        return self._crew.handout.edition

    @property
    def layout(self) -> list[Counted]:
        """How the counters' layout grew so far."""
        return self._crew.layout.history

    def prepare(self, config: Config) -> Prepared:
        """Changes nothing yet. Raises ConfigError."""
        counted = demand.counted(config)
        if not self._crew.layout.fits(counted, self._crew.memory.room):
            found = "more new names, together with those that there were, than there is room to count for"
            raise ConfigError([Problem("routes", found, "a restart, which makes room")])
        return Prepared(counted, self._desk.prepare(config))

    def adopt(self, config: Config, prepared: Prepared) -> None:
        """From now on. Raises OSError, and has then changed nothing."""
        self._crew.renew(config, prepared.counted)
        self._desk.use(prepared.credentials)
        self._adopted(config)
