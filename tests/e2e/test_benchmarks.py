"""The benchmarks run: what they measure is another matter (`make bench`)."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.process.daemon import ROOT

pytestmark = pytest.mark.alone


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_paired_figures_are_taken(tmp_path: Path):
    report = tmp_path / "paired.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.paired", "--quick", "--json", str(report)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    figures = json.loads(report.read_text())["figures"]
    assert len(figures) == 9
    assert all(figure["value"] > 0 for figure in figures if "added" not in figure["name"])
    assert "echo, not streamed" in out.decode()
