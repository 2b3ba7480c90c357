"""What the tests of the configuration share."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from config.errors import ConfigError, Problem
from config.load import load

SMALLEST = """
[[workers]]
name = "w"
kind = "echo"
[[routes]]
name = "r"
worker = "w"
"""


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """What is wrong with a file of this text."""
    file = folder / "test.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file, environ or {})
    return refused.value.problems
