"""A new configuration, on all shards or on none.

Two phases. Every shard that is ready prepares to run the new configuration and says what is wrong with it; only when
all have found nothing are they told to run it. So what is wrong is known before anything changes, and the second phase
cannot fail: a shard that is born on the way is born with what is in force by then, or is told of it at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import Any, Protocol

import structlog

from config.errors import ConfigError, Problem, in_lines
from config.reload import Difference, merged
from config.schema import Config
from pipeline.observe.layout import Counted
from pipeline.process import demand
from pipeline.process.control import Applied, Change, ReloadFailed
from pipeline.process.link import Abort, Commit, Committed, Message, Prepare, Prepared
from pipeline.process.tls import warn_of_validity
from pipeline.process.version import Version

_MOST_PATHS = 100  # in a line of the log

log = structlog.get_logger()


class NoneReady(ReloadFailed):
    """No shard is there that could check it."""


class Party(Protocol):
    """A process of a shard. `edition` numbers the configuration that it was born with."""

    name: str
    ready: bool
    retiring: bool
    edition: int

    def send(self, message: Message) -> None: ...

    def kill(self, reason: str | None = None) -> None: ...


class House(Protocol):
    """The supervisor's own part in a change."""

    @property
    def edition(self) -> int:
        """Of the configuration that processes are born with now."""
        ...

    @property
    def layout(self) -> list[Counted]:
        """How the counters' layout grew, up to the configuration in force: the history of a `MetricsLayout`."""
        ...

    def prepare(self, config: Config) -> Any:
        """Raises ConfigError for what the supervisor itself cannot run; changes nothing yet."""
        ...

    def adopt(self, config: Config, prepared: Any) -> None:
        """From now on, for itself and for those that are born: the next edition. Raises OSError, and has then changed
        nothing."""
        ...

    def reread(self) -> None:
        """What is in force is what the file says, also where that was so before."""


class Reloader:
    """`begun` is what the daemon began with. `read` reads the configuration anew (in a thread; it raises ConfigError),
    `parties` are the living processes of shards. Tell it of each of these that gets ready, says something, or dies.
    """

    def __init__(
        self, begun: Version, read: Callable[[], Config], parties: Callable[[], Iterable[Party]], house: House
    ) -> None:
        self._begun = begun.named
        self._in_force = begun
        self._read = read
        self._parties = parties
        self._house = house
        self._one = asyncio.Lock()
        self._numbers = count(1)
        self._number = 0  # of the last try; late answers to earlier ones don't count
        self._brought_up: dict[Party, int] = {}  # under which number, those that had to be
        self._waiting: set[Party] = set()  # those whose answer is still to come
        self._answered = asyncio.Event()
        self._problems: list[Problem] = []
        self._asked_again: asyncio.Task[None] | None = None
        self._put_off = False  # what was asked for, until a shard is ready

    @property
    def config(self) -> Config:
        """The one in force; it names files."""
        return self._in_force.named

    async def reload(self) -> Applied:
        """Puts in force what the file and the environment say now. Raises ConfigError, ReloadFailed."""
        return await self._alone(self._reread)

    async def apply(self, config: Config) -> Applied:
        """Puts this in force. Raises ConfigError, ReloadFailed."""

        async def given() -> Config:
            return config

        return await self._alone(lambda: self._logged(given))

    def request(self) -> None:
        """A reload, after the one that may be under way; how it went is in the log. As SIGHUP wants it: any number of
        requests while one is waiting are one. While no shard is ready it waits for one."""
        if self._asked_again is None:
            self._asked_again = asyncio.create_task(self._obey())

    async def aclose(self) -> None:
        if self._asked_again is not None:
            self._asked_again.cancel()
            await asyncio.wait({self._asked_again})

    def joined(self, party: Party) -> None:
        """It is ready, perhaps with a configuration that has been replaced while it started, once or more often."""
        if party.edition != self._house.edition:
            self._bring_up(party)
        if self._put_off:
            self.request()

    def heard(self, party: Party, message: Message) -> None:
        match message:
            case Prepared(number, problems) if number == self._number and party in self._waiting:
                self._problems += problems
                self._tick_off(party)
            case Prepared(number, problems) if problems and number == self._brought_up.get(party):
                party.kill(f"it cannot run the configuration in force: {'; '.join(in_lines(problems, most=3))}")
            case Committed(number) if number == self._number:
                self._tick_off(party)

    def gone(self, party: Party) -> None:
        """The one that comes after it runs what is in force by then."""
        self._brought_up.pop(party, None)
        self._tick_off(party)

    async def _alone(self, change: Callable[[], Awaitable[Applied]]) -> Applied:
        if self._one.locked():
            raise ReloadFailed("another change of the configuration is under way; try again")
        async with self._one:
            try:
                return await change()
            except ReloadFailed as error:
                log.error("reload_failed", because=str(error))  # noqa: TRY400 - the message says it
                raise

    async def _obey(self) -> None:
        async with self._one:
            self._asked_again = None  # who asks from now on has seen a later file than we
            self._put_off = False
            try:
                await self._reread()
            except ConfigError:
                return  # told in the log
            except NoneReady:
                self._wait_for_one()
            except ReloadFailed as error:
                log.error("reload_failed", because=str(error))  # noqa: TRY400 - the message says it

    def _wait_for_one(self) -> None:
        """Does not run unchecked what none of those that are to run it has seen: they will be there again."""
        log.warning("reload_put_off", because="no shard is ready; it is done once one is")
        if self._serving():  # while those that we asked died
            self.request()
        else:
            self._put_off = True

    async def _reread(self) -> Applied:
        applied = await self._logged(lambda: asyncio.to_thread(self._read))
        self._house.reread()
        return applied

    async def _logged(self, config: Callable[[], Awaitable[Config]]) -> Applied:
        try:
            applied = await self._change(await config())
        except ConfigError as error:
            log.error("reload_refused", problems=in_lines(error.problems))  # noqa: TRY400 - the problems say it
            raise
        log.info("reload_applied", changed=_paths(applied.changed), restart=_paths(applied.restart))
        return applied

    async def _change(self, new: Config) -> Applied:
        old = self._in_force
        named = merged(old.named, new)
        version = await asyncio.to_thread(Version.of, named)
        found = old.differences(version, new)
        live = [difference for difference in found if not difference.restart]
        if live:
            await self._put_in_force(version)
        return Applied(_changes(live), _changes(difference for difference in found if difference.restart))

    async def _put_in_force(self, version: Version) -> None:
        if demand.wants_knowledge(version.named) and not demand.wants_knowledge(self._begun):
            raise ConfigError([_no_knowledge(version.named)])
        prepared = self._house.prepare(version.whole)
        self._number = next(self._numbers)
        parties = self._serving()
        try:
            await self._ask(parties, Prepare(self._number, version.encoded))
            self._adopt(parties, version, prepared)
        except BaseException:
            _tell(parties, Abort(self._number))
            raise
        self._in_force = version
        warn_of_validity(version.whole)
        await self._commit(parties)

    async def _ask(self, parties: list[Party], question: Prepare) -> None:
        """Raises ConfigError with what any of them has found, ReloadFailed when one is silent."""
        self._problems = []
        silent = await self._answers(parties, question)
        if silent:
            raise ReloadFailed(f"{silent} did not answer within {self._limit:g} s; nothing has changed")
        if self._problems:
            raise ConfigError(list(dict.fromkeys(self._problems)))

    def _adopt(self, parties: list[Party], version: Version, prepared: Any) -> None:
        if not any(party in parties for party in self._serving()):
            raise NoneReady("no shard is ready, and so none could check it; try again")
        try:
            self._house.adopt(version.whole, prepared)
        except OSError as error:
            raise ReloadFailed(f"the supervisor could not take it over: {error.strerror}") from error

    async def _commit(self, parties: list[Party]) -> None:
        """Those that got ready since we asked had not been asked."""
        serving = self._serving()
        for party in serving:
            if party not in parties:
                self._bring_up(party)
        silent = await self._answers([party for party in parties if party in serving], Commit(self._number))
        if silent:  # its loop stands: once it turns it will do so first thing, and if it does not it will be replaced
            log.warning("reload_late", processes=silent)

    async def _answers(self, parties: list[Party], question: Prepare | Commit) -> str:
        """Sends the question and waits for all answers; returns the names of those that were silent for too long."""
        self._waiting = set(parties)
        self._answered.clear()
        _tell(parties, question)
        try:
            async with asyncio.timeout(self._limit):
                while self._waiting:
                    await self._answered.wait()
                    self._answered.clear()
        except TimeoutError:
            return ", ".join(sorted(party.name for party in self._waiting))
        finally:
            self._waiting = set()
        return ""

    @property
    def _limit(self) -> float:
        """As long as for a start, which is more work."""
        return self.config.server.start_timeout_ms / 1000

    def _serving(self) -> list[Party]:
        return [party for party in self._parties() if party.ready and not party.retiring]

    def _bring_up(self, party: Party) -> None:
        """To what is in force, step by step where it was born before several changes: its counters lie where those of
        the others do, also those of routes that have come and gone."""
        number = self._brought_up[party] = next(self._numbers)
        party.send(Prepare(number, self._in_force.encoded, self._house.layout))
        party.send(Commit(number))

    def _tick_off(self, party: Party) -> None:
        self._waiting.discard(party)
        self._answered.set()


def _tell(parties: Iterable[Party], message: Message) -> None:
    for party in parties:
        party.send(message)


def _paths(changes: list[Change]) -> list[str]:
    paths = [change.path for change in changes[:_MOST_PATHS]]
    return [*paths, f"and {len(changes) - _MOST_PATHS} more"] if len(changes) > _MOST_PATHS else paths


def _changes(found: Iterable[Difference]) -> list[Change]:
    return [Change(difference.path, difference.before, difference.after) for difference in found]


def _no_knowledge(config: Config) -> Problem:
    at = next(position for position, route in enumerate(config.routes) if route.collection is not None)
    expected = "a restart: the daemon began without routes that retrieve, and so without the process that does"
    return Problem(f"routes[{at}].collection", f'"{config.routes[at].collection}"', expected)
