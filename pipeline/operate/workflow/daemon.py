"""Which daemon the workflow commands ask, and what its refusals mean for the exit status."""

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from config.access import is_loopback
from pipeline.operate.public import public_url
from pipeline.operate.workflow import exits
from pipeline.workflow.client import WorkflowApiError, WorkflowClient

KEY_VARIABLE = "HEADGATE_API_KEY"  # not an option: those are shown to everybody who may list processes
_PATIENCE_S = 3.0  # a person is waiting
Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")

url_option = click.option(
    "--url",
    metavar="URL",
    help="The daemon: http://127.0.0.1:8080. Default: the one that runs with the configuration, else where it would "
    "serve.",
)
config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration file. Default: HEADGATE_CONFIG, else pipeline.toml in the working directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="What the API answers, for programs.")


def reaching(command: Command) -> Command:
    """The options that say which daemon."""
    return json_option(url_option(config_option(command)))


def ask(
    url: str | None, config_file: Path | None, question: Callable[[WorkflowClient], Awaitable[Result]], file: str = ""
) -> Result:
    """Raises `exits.Ended`. `file`: where a definition came from that may be refused."""
    address = checked(url or public_url(config_file))

    async def asked() -> Result:
        async with WorkflowClient(address, _key(address), patience=_PATIENCE_S, tls=_tls(address)) as client:
            return await question(client)

    try:
        return asyncio.run(asked())
    except WorkflowApiError as error:
        raise ended(error, address, file) from error


def checked(url: str) -> str:
    """Without the /v1 that clients of prompts write behind it."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise exits.Ended(f"{url!r} is no address: expected http://HOST:PORT", exits.REFUSED)
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def ended(error: WorkflowApiError, address: str, file: str = "") -> exits.Ended:
    if error.code == "version_exists":
        what = f"{file}: " if file else ""
        again = "a registered version never changes, so write another `version:` and run it again"
        return exits.Ended(f"{what}{error.message}: {again}", exits.FAILED)
    if error.faults:
        return exits.refused(error.faults, "" if error.code == "invalid_inputs" else file)
    if error.status in {401, 403}:
        key = f"the key in {KEY_VARIABLE}" if os.environ.get(KEY_VARIABLE) else f"no key in {KEY_VARIABLE}"
        return exits.Ended(f"{address} refused the request ({key}): {error.message}", exits.FAILED)
    if error.code == "unreachable" and "Connect call failed" in error.message:
        hint = "start it with `headgate serve`, or name another with --url"
        return exits.Ended(f"nothing answers at {address}: {hint}", exits.UNREACHABLE)
    if error.status == 0 or error.code == "journal_unavailable":
        return exits.Ended(error.message, exits.UNREACHABLE)
    return exits.Ended(error.message, exits.REFUSED if error.status in {400, 404, 413, 422} else exits.FAILED)


def _key(address: str) -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    parts = urlsplit(address)
    if key is not None and parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        click.echo(f"The key in {KEY_VARIABLE} travels in the open to {parts.hostname}.", err=True)
    return key


def _tls(address: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if address.startswith("https:") else None
