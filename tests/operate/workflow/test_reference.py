"""`docs/reference/workflow-commands.md` names every command and every option."""

from pathlib import Path

import click
import pytest

from pipeline.operate.workflow.command import workflow

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "workflow-commands.md").read_text()
NAMES = workflow.list_commands(click.Context(workflow))


@pytest.mark.parametrize("name", NAMES)
def test_a_command_and_its_options_are_there(name):
    command = workflow.get_command(click.Context(workflow), name)
    assert command.name == name
    assert name in PAGE
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if option not in PAGE] == []
