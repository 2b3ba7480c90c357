"""`headgate key`: makes API keys, of which only the hash goes into the configuration."""

import os
import secrets
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from config.errors import ConfigError
from config.findings import Findings
from config.paths import quote
from config.schema import KeySection
from config.source import Source
from config.structure import draft_of
from pipeline.policy.access import CLASSES, KEY_MAX_CHARS, KEY_PREFIX, is_key, key_hash

_RANDOM_BYTES = 32
_SHORTEST = 20  # characters of a key made elsewhere: a shorter one could be guessed from its hash


@click.group()
def key() -> None:
    """Make API keys for `[[keys]]`."""


@key.command()
@click.argument("name")
@click.option("--class", "class", type=click.Choice(list(CLASSES)), help="Higher ones go first. Default: normal.")
@click.option("--route", "routes", multiple=True, metavar="NAME", help="One that it may use; repeatable. Default: all.")
@click.option("--requests-per-minute", type=int, metavar="N", help="Further ones get 429.")
@click.option("--tokens-per-minute", type=int, metavar="N", help="Of prompts and answers; further requests get 429.")
@click.option("--concurrency", type=int, metavar="N", help="Requests at once; further ones get 429.")
@click.option("--weight", type=float, metavar="W", help="Of its share beside other keys of its class. Default: 1.")
@click.option("--json", "as_json", is_flag=True, help="Key and section as one JSON object, for programs.")
def new(name: str, *, as_json: bool, **options: Any) -> None:
    """Make a key and print it, this once.

    The key goes to standard output and is kept nowhere: who loses it makes a new one. The section that stands for it
    in the configuration, under NAME, goes to standard error.
    """
    made = KEY_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    given = {option: value for option, value in options.items() if value not in (None, ())}
    section = {"name": name, "hash": key_hash(made), **given}
    text = "\n".join(f"{option} = {_toml(value)}" for option, value in section.items())
    _check(text)
    if as_json:
        click.echo(msgspec.json.encode({"key": made, "section": section}))
        return
    _title("The key, shown this once and kept nowhere:")
    click.echo(made)
    click.echo(err=True)
    _title("What to add to the configuration, where the key itself does not belong:")
    click.echo(f"[[keys]]\n{text}", err=True)


@key.command("hash")
def hash_() -> None:
    """Print the hash of a key on standard input.

    For keys that were made elsewhere. They must be as hard to guess as those that `headgate key new` makes.
    """
    if sys.stdin.isatty():
        given = click.prompt("Key", hide_input=True, err=True)
    else:
        given = sys.stdin.buffer.readline(2 * KEY_MAX_CHARS).decode("ascii", "replace")
    given = given.strip()
    if not is_key(given):
        raise click.ClickException(f"a key is one line of 1 to {KEY_MAX_CHARS} visible ASCII characters without spaces")
    if len(given) < _SHORTEST:
        raise click.ClickException(f"a key of less than {_SHORTEST} characters could be guessed from its hash")
    click.echo(key_hash(given))


def _check(text: str) -> None:
    """Raises `UsageError` for what the configuration would refuse."""
    try:
        findings = Findings(Source(Path("headgate key new"), text))
        draft_of(KeySection, findings.source.tree, findings, "a key of keys")
        findings.raise_if_any()
    except ConfigError as error:
        faults = [f"{problem.path}: found {problem.found}, expected {problem.expected}" for problem in error.problems]
        raise click.UsageError("\n".join(faults)) from error


def _title(text: str) -> None:
    colour = False if os.environ.get("NO_COLOR") else None
    click.secho(text, err=True, bold=True, color=colour)
    click.echo(err=True)


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    return f"[{', '.join(map(quote, value))}]" if isinstance(value, tuple) else repr(value)
