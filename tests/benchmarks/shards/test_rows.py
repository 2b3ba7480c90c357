import io

import pytest
from rich.console import Console

from benchmarks.shards.rows import Row, show


@pytest.mark.parametrize(("value", "met"), [(1.29, True), (1.30, True), (1.31, False), (None, False)])
def test_a_figure_is_met_up_to_its_target_and_never_unmeasured(value, met):
    assert Row("cost", value, 1.30, "x").met is met


def test_table_shows_the_figure_beside_its_target():
    console = Console(file=io.StringIO(), width=140)
    rows = [Row("cost", 1.5, 1.3, "x", (1.4, 1.5)), Row("failed", 0, 0, ""), Row("kill", None, 1, "s", note="no shard")]
    show(console, rows)
    cost, failed, kill = console.file.getvalue().splitlines()[-4:-1]
    assert cost.replace("│", " ").split() == ["cost", "1.5", "x", "1.3", "x", "MISSED", "1.4", "1.5"]
    assert "met" in failed
    assert "not measured" in kill
    assert "no shard" in kill
