"""The command group `headgate workflow`. Each command is imported when it is asked for."""

from importlib import import_module

import click

_HERE = "pipeline.operate.workflow."
_COMMANDS = {
    "init": "init",
    "validate": "validate",
    "run": "run",
    "register": "register",
    "list": "remote",
    "status": "remote",
    "watch": "remote",
    "pause": "remote",
    "resume": "remote",
    "cancel": "remote",
    "retry": "remote",
    "signal": "remote",
    "graph": "graph",
    "schema": "validate",
}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_COMMANDS)  # in the order in which they are needed

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(_HERE + _COMMANDS[cmd_name])
        command: click.Command = getattr(module, "list_" if cmd_name == "list" else cmd_name)
        return command


@click.group(cls=_Group)
def workflow() -> None:
    """Declare multi-step work in YAML, run it, and follow its runs.

    Exit status of run, watch and status: 0 completed, 1 failed, 3 partial, 4 cancelled. Of all: 2 when a definition,
    its inputs or the command line are wrong, 5 when the daemon or the journal cannot be reached.
    """
