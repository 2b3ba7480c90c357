"""The daemon's configuration while it is soaked, and how it changes from reload to reload. Pure, by the seed."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from pipeline.policy.access import KEY_PREFIX, key_hash

DEADLINE = 8.0  # seconds that a request may take as the daemon says
GRACE = 7.0  # seconds after that until which its answer must be there
IDLE = 1.0  # seconds after which a connection to the backend is closed
KEYS = {name: f"{KEY_PREFIX}soak-{name}-0123456789abcdef" for name in ("steady", "bursts", "limited")}
ALWAYS = ("chat", "docs")
SOMETIMES = "sometimes"

BROKEN = (
    ("an unknown key", "[server]\n", "[server]\nsoaked = true\n"),
    ("no TOML", "[server]\n", "[server\n"),
    ("a value out of range", "weight = ", "weight = -"),
    ("a worker that is not there", 'worker = "right"', 'worker = "gone"'),
    ("a hash that is none", 'hash = "sha256:', 'hash = "sha256:x'),
)


class Place(NamedTuple):
    """Where the daemon is and what it calls; fixed for a run."""

    port: int
    backend: int
    folder: str
    shards: int


class Settings:
    """What may change, with the values it has now. `text` is the whole file, `routes` what it serves."""

    def __init__(self, place: Place, random: Random) -> None:
        self._place = place
        self._random = random
        self._weights = (1.0, 1.0)
        self._per_minute = 240
        self._at_once = 4
        self._concurrency = 0
        self._sometimes = True

    @property
    def key(self) -> str:
        """One without limits."""
        return KEYS["steady"]

    @property
    def routes(self) -> Sequence[str]:
        return (*ALWAYS, SOMETIMES) if self._sometimes else ALWAYS

    def change(self) -> str:
        """Something else from now on; says what. The routes change each time, so that one can see it from outside."""
        self._sometimes = not self._sometimes
        said = [f"route {SOMETIMES} {'added' if self._sometimes else 'removed'}"]
        what = self._random.choice(("weights", "limits", "concurrency"))
        if what == "weights":
            share = round(self._random.uniform(0.1, 0.9), 2)
            self._weights = share, round(1 - share, 2)
            said.append(f"weights {self._weights}")
        elif what == "limits":
            self._per_minute, self._at_once = self._random.randrange(60, 600), self._random.randrange(2, 8)
            said.append(f"limits {self._per_minute} a minute, {self._at_once} at once")
        else:
            self._concurrency = self._random.choice((0, 24, 48))
            said.append(f"concurrency {self._concurrency or 'adaptive'}")
        return ", ".join(said)

    def broken(self) -> tuple[str, str]:
        """What is wrong, and a file in which it is; nothing of ours changes."""
        what, old, new = self._random.choice(BROKEN)
        text = self.text()
        assert old in text
        return what, text.replace(old, new, 1)

    def text(self) -> str:
        place = self._place
        left, right = self._weights
        worker = f'kind = "openai"\nbase_url = "http://127.0.0.1:{place.backend}/v1"\n'
        worker += f"idle_connection_ms = {IDLE * 1000:.0f}\n"
        if self._concurrency:
            worker += f"concurrency = {self._concurrency}\n"
        sometimes = f'[[routes]]\nname = "{SOMETIMES}"\nworker = "right"\n' if self._sometimes else ""
        keys = "".join(_key(name) for name in ("steady", "bursts"))
        return f"""
[server]
port = {place.port}
shards = {place.shards}
data_dir = "{place.folder}/data"
deadline_ms = {int(DEADLINE * 1000)}
drain_timeout_ms = {int((DEADLINE + 2) * 1000)}
restart_limit = 100000
[admin]
port = 0
[logging]
format = "json"
[[workers]]
name = "left"
{worker}
[[workers]]
name = "right"
{worker}
[[workers]]
name = "quotes"
kind = "extractive"
[[collections]]
name = "docs"
embedder = "lexical"
[[routes]]
name = "chat"
workers = [{{worker = "left", weight = {left}}}, {{worker = "right", weight = {right}}}]
[[routes]]
name = "docs"
worker = "quotes"
collection = "docs"
{sometimes}
{keys}
{_key("limited")}requests_per_minute = {self._per_minute}
concurrency = {self._at_once}
"""


def _key(name: str) -> str:
    return f'[[keys]]\nname = "{name}"\nhash = "{key_hash(KEYS[name])}"\n'
