"""The `headgate` command. Each command imports what it needs when it runs, so that all of them start fast."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.errors import ConfigError, Problem, report

if TYPE_CHECKING:
    from config.schema import Config

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration file. Default: HEADGATE_CONFIG, else pipeline.toml in the working directory.",
)

_MADE = {"grpc", "python", "llama-cpp"}  # kinds of workers that need more than the configuration


# Commands that live with what they run; imported when they are asked for.
ELSEWHERE = {
    "bench": "benchmarks.load.command",
    "drain": "pipeline.operate.command",
    "ingest": "pipeline.knowledge.command",
    "key": "pipeline.keys",
    "log-level": "pipeline.operate.command",
    "reload": "pipeline.operate.command",
    "routes": "pipeline.operate.routes",
    "serve": "pipeline.process.command",
    "status": "pipeline.operate.command",
    "usage": "pipeline.operate.usage",
    "workers": "pipeline.operate.workers",
    "workflow": "pipeline.operate.workflow.command",
}


class Commands(click.Group):
    """Prints what a refused configuration says, with exit status 2, whichever command met it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(ELSEWHERE[cmd_name]), cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            text = report(error.problems, lambda path: click.style(path, bold=True))
            click.echo(text, err=True, color=False if os.environ.get("NO_COLOR") else None)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headgate", prog_name="headgate")
def main() -> None:
    """A staged, streaming pipeline for language-model prompts that keeps serving under overload."""


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--secrets", is_flag=True, help="Look up the secrets it refers to as well, on this machine.")
@config_option
def check(file: Path | None, config_file: Path | None, *, secrets: bool) -> None:
    """Check a configuration file, the environment variables over it, and the templates and certificates that it names,
    and print every problem there is."""
    from config.load import traced  # noqa: PLC0415 - see the module's docstring

    if file is not None and config_file is not None:
        raise click.UsageError("name the file once: as an argument or with --config")
    loaded, findings = traced(file or config_file)
    config = loaded.config
    problems = [*_found_in_files(config), *(_missing_secrets(config) if secrets else [])]
    if problems:
        raise ConfigError([findings.placed(problem) for problem in problems])
    sizes = {"worker": len(config.workers), "route": len(config.routes), "collection": len(config.collections)}
    counts = ", ".join(f"{size} {name}{'' if size == 1 else 's'}" for name, size in sizes.items())
    click.echo(f"{loaded.path}: no problems ({counts})")


def _found_in_files(config: "Config") -> list[Problem]:
    """What is wrong with what templates and certificates say; that the files are there is known."""
    problems: list[Problem] = []
    if any(route.template is not None or route.template_file is not None for route in config.routes):
        from pipeline.wiring import check_templates  # noqa: PLC0415 - see the module's docstring

        problems += _refusals(check_templates, config)
    if any(worker.tokenizer is not None or worker.__struct_config__.tag in _MADE for worker in config.workers):
        from pipeline.wiring import check_workers  # noqa: PLC0415 - see the module's docstring

        problems += _refusals(check_workers, config)
    if config.server.tls_certificate is not None or config.admin.tls_certificate is not None:
        from pipeline.process.tls import carried  # noqa: PLC0415 - see the module's docstring

        problems += _refusals(carried, config)
    return list(dict.fromkeys(problems))


def _missing_secrets(config: "Config") -> list[Problem]:
    from config.secrets import missing  # noqa: PLC0415 - see the module's docstring

    return missing(config)


def _refusals(checked: Callable[["Config"], object], config: "Config") -> Sequence[Problem]:
    try:
        checked(config)
    except ConfigError as error:
        return error.problems
    return ()


@main.group("config")
def config_group() -> None:
    """Show what is configured and what can be."""


@config_group.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of TOML.")
@config_option
def show(config_file: Path | None, *, as_json: bool) -> None:
    """Print every key in force with its value and where that comes from. Secrets are not shown."""
    from config import show as shown  # noqa: PLC0415 - see the module's docstring
    from config.load import load  # noqa: PLC0415 - as above

    loaded = load(config_file)
    click.echo(shown.as_json(loaded) if as_json else shown.as_toml(loaded).encode(), nl=as_json)


@config_group.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="The reference page of the documentation instead.")
def schema(*, as_markdown: bool) -> None:
    """Print a JSON schema of the configuration file, for editors."""
    from msgspec import json  # noqa: PLC0415 - see the module's docstring

    from config import reference  # noqa: PLC0415 - as above

    if as_markdown:
        click.echo(reference.markdown().encode(), nl=False)
    else:
        click.echo(json.format(json.encode(reference.json_schema())))


@main.command()
@click.argument("words", nargs=-1, required=True, metavar="QUESTION…")
@click.option("--route", metavar="NAME", help="Which route to ask. Default: the first.")
@click.option("--session", "session_id", metavar="ID", help="Session id to ask in.")
@click.option(
    "--url",
    metavar="URL",
    help="The server, with the version: http://127.0.0.1:8080/v1. Default: the daemon that runs with the "
    "configuration, else where it would serve.",
)
@config_option
def ask(
    words: tuple[str, ...], route: str | None, session_id: str | None, url: str | None, config_file: Path | None
) -> None:
    """Ask a running daemon a question; its answer is printed as it comes, then the passages that it cites.

    A daemon that wants an API key is sent the one in HEADGATE_API_KEY.
    """
    from pipeline import ask as asking  # noqa: PLC0415 - see the module's docstring

    try:
        asking.run(" ".join(words), url or _own_url(config_file), route=route, session_id=session_id)
    except asking.AskFailed as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Send ten prompts of four sessions through the five stages, in this process, and show each stage as it happens."""
    from pipeline import demo as shown  # noqa: PLC0415 - see the module's docstring

    ctx.exit(shown.run())


def _own_url(config_file: Path | None) -> str:
    from pipeline.operate.public import public_url  # noqa: PLC0415 - see the module's docstring

    return public_url(config_file) + "/v1"


if __name__ == "__main__":
    main()
