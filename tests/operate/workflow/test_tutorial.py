"""`docs/tutorial/workflows.md`: all that it says to type, and all that it says is then seen."""

from pathlib import Path

import pytest
import structlog

from tests.operate.workflow.console import Shell, steps

PAGE = Path(__file__).parents[3] / "docs" / "tutorial" / "workflows.md"


@pytest.mark.slow
def test_the_tutorial_is_true(tmp_path):
    typed = list(steps(PAGE.read_text()))
    assert len(typed) > 15
    logging = structlog.get_config()
    try:
        with Shell(tmp_path) as shell:
            for command, seen in typed:
                shell.type(command, seen)
    finally:
        structlog.configure(**logging)
