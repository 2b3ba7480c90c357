"""The replicas behind the daemon that is measured, each in a process of its own or several in one."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.service import Service
from benchmarks.simulated.starting import Listening, command


class Replicas:
    """`urls` in order, and the process of each."""

    def __init__(self, urls: list[str], processes: "list[subprocess.Popen[str]]") -> None:
        self.urls = urls
        self.processes = processes

    def names(self) -> list[str]:
        """What the daemon calls them."""
        return [f"{url.partition('://')[2]}/v1" for url in self.urls]

    def config(self, **keys: object) -> str:
        """A worker `pool` of them, and a route of the same name; `keys` are further ones of the worker."""
        replicas = ", ".join([f'"{url}/v1"' for url in self.urls])
        more = "".join([f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in keys.items()])
        worker = f'[[workers]]\nname = "pool"\nkind = "openai"\nreplicas = [{replicas}]\n{more}'
        return f'{worker}[[routes]]\nname = "pool"\nworker = "pool"\n{_STAGES}'


# A call holds places in both of these queues; they are not what is measured.
_STAGES = "[stages.post]\ncapacity = 2048\n[stages.stream]\ncapacity = 2048\n"


@contextmanager
def simulated(service: Service, *, replicas: int, processes: int = 1) -> Iterator[Replicas]:
    """`replicas` simulated backends in each of `processes`."""
    with _running([[*command(service), "--replicas", str(replicas)]] * processes) as (lines, started):
        urls = [msgspec.json.decode(line, type=Listening).urls for line in lines]
        yield Replicas([url for of_one in urls for url in of_one], [p for p in started for _ in range(replicas)])


@contextmanager
def failing(*calls: str) -> Iterator[Replicas]:
    """One that fails for each of `calls`, see `benchmarks.pools.failing`."""
    with _running([[sys.executable, "-m", "benchmarks.pools.failing", which] for which in calls]) as (lines, started):
        yield Replicas([line.strip() for line in lines], started)


def seen(url: str) -> list[tuple[float, bool]]:
    """When each call came to a backend that fails some, and whether it failed that."""
    with urllib.request.urlopen(f"{url}/calls", timeout=5) as answer:
        return msgspec.json.decode(answer.read(), type=list[tuple[float, bool]])


@contextmanager
def _running(commands: list[list[str]]) -> "Iterator[tuple[list[str], list[subprocess.Popen[str]]]]":
    """The first line that each says, and the processes; they end with the context."""
    started = [
        subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for each in commands
    ]
    try:
        lines = [process.stdout.readline() for process in started if process.stdout is not None]
        if not all(lines):
            raise RuntimeError("a backend did not start; what it said went to stderr")
        yield lines, started
    finally:
        for process in started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
