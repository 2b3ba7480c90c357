"""What all these commands have in common: which daemon to ask, and what to do with its answer."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console, RenderableType

from pipeline.operate import tables
from pipeline.operate.client import Daemon, OperateFailed, data_folder
from pipeline.process.admin_types import Changed

_UNBOUNDED = 4096  # columns
Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


def reaching(command: Command) -> Command:
    """The options that say which daemon; in a group they may stand before or behind the subcommand."""
    for option in (
        click.option(
            "--cacert",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The certificates to trust, in PEM, for --url https://… Default: the system's.",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="The daemon's admin API: https://HOST:9901. The token is the one in HEADGATE_ADMIN_TOKEN. "
            "Default: the socket in the configured data folder, which needs none.",
        ),
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Configuration file. Default: HEADGATE_CONFIG, else pipeline.toml in the working directory.",
        ),
    ):
        command = option(command)
    return command


as_json = click.option("--json", "as_json", is_flag=True, help="What the admin API answers, for programs.")


def change(ctx: click.Context, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
    answer = ask(ctx, lambda daemon: daemon.change(method, path, body, headers))
    show(tables.changed(decoded(answer, Changed)))


def ask(ctx: click.Context, question: Callable[[Daemon], Awaitable[Result]]) -> Result:
    """Asks the daemon that the options name. Raises ConfigError, ClickException."""

    async def asked() -> Result:
        url = _option(ctx, "url")
        folder = Path() if url is not None else data_folder(_option(ctx, "config_file"))
        async with Daemon(folder, url, _option(ctx, "cacert")) as daemon:
            return await question(daemon)

    try:
        return asyncio.run(asked())
    except OperateFailed as error:
        raise click.ClickException(str(error)) from error


def _option(ctx: click.Context, name: str) -> Any:
    """As given to the command, else to the group around it."""
    around: click.Context | None = ctx
    while around is not None:
        if around.params.get(name) is not None:
            return around.params[name]
        around = around.parent
    return None


def decoded(answer: bytes, kind: type[Result]) -> Result:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise click.ClickException(f"the daemon's answer is of another version: {error}") from error


def show(what: RenderableType) -> None:
    """On what is no terminal, and has no `COLUMNS`, a line is as long as it must be."""
    terminal = sys.stdout.isatty()
    width = None if terminal or os.environ.get("COLUMNS") else _UNBOUNDED
    Console(highlight=False, soft_wrap=not terminal, width=width).print(what, crop=False)


def print_json(answer: bytes) -> None:
    click.echo(msgspec.json.format(answer))
