"""`headgate serve`."""

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration file. Default: HEADGATE_CONFIG, else pipeline.toml in the working directory.",
)
def serve(config_file: Path | None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    import uvloop  # noqa: PLC0415 - only this command pays for it and for what follows

    from config.load import load  # noqa: PLC0415 - as above
    from pipeline.observe.logs import Logs  # noqa: PLC0415 - as above
    from pipeline.process.errors import DaemonError  # noqa: PLC0415 - as above
    from pipeline.process.supervisor import supervise  # noqa: PLC0415 - as above

    loaded = load(config_file)
    logs = Logs(loaded.config.logging, "supervisor")
    try:
        status = uvloop.run(supervise(loaded, logs, click.echo))
    except DaemonError as error:
        logs.writer.flush()
        click.echo(f"Error: {error}", err=True)
        status = 1
    finally:
        logs.close()
    sys.exit(status)
