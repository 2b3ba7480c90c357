"""What the benchmark of workflows measures is what it says: on a small scale, in this process."""

import pytest

from benchmarks.workflows import parts
from benchmarks.workflows.__main__ import rows
from pipeline.workflow.source import read

TARGETS = {
    "validate": [("1,000", 100), ("10,000", 1000)],
    "steps-memory": [("in memory", 0.5)],
    "steps-sqlite": [("in SQLite", 1.0)],
    "turns": [("turn of the loop", 20)],
    "ready": [("p99", 10)],
    "memory": [("1,000 runs", 100)],
    "resume": [("1,000 interrupted", 5)],
}


def test_each_figure_has_the_target_that_was_asked_for():
    numbers = {
        "validate": {"validate_1000_ms": 1.0, "validate_10000_ms": 1001.0, "validate_filters_ms": 2.0},
        "steps-memory": {"overhead_ms": 0.6, "step_ms": 0.8, "prompt_ms": 0.2},
        "steps-sqlite": {"overhead_ms": 0.6, "step_ms": 0.8, "prompt_ms": 0.2},
        "throughput": {"runs_per_s": 199.0, "inline_per_s": 99.0},
        "turns": {"longest_ms": 21.0, "longest_cpu_ms": 2.0, "p99_ms": 1.0},
        "ready": {"p50_ms": 1.0, "p99_ms": 11.0},
        "memory": {"mb": 101.0},
        "waiting": {"held": 10_000.0, "mb": 1.0, "s": 1.0},
        "resume": {"s": 6.0, "resumed": 1000.0},
    }
    assert numbers.keys() == parts.PARTS.keys()
    found = {part: rows(part, figures) for part, figures in numbers.items()}
    for part, targets in TARGETS.items():
        assert [row.most for row in found[part]] == [target for _, target in targets]
        assert all(words in row.figure for row, (words, _) in zip(found[part], targets, strict=True))
    missed = {part for part, figures in found.items() if not all(row.met for row in figures)}
    assert missed == {"validate", "steps-memory", "throughput", "turns", "ready", "memory", "resume"}


def test_the_large_definition_is_a_graph_of_that_many_steps():
    source = read(parts.large(300))
    assert source.definition is not None
    assert len(source.definition.steps) == 300
    assert "{{ steps.s" in source.definition.steps[-1].prompt


@pytest.mark.slow
async def test_runs_are_made_killed_and_finished():
    assert (await parts.throughput("sqlite", runs=20))["runs_per_s"] > 0
    assert (await parts.turns("memory", runs=20))["longest_ms"] > 0
    assert (await parts.steps("memory", runs=10)).keys() == {"prompt_ms", "step_ms", "overhead_ms"}
    assert (await parts.ready("memory", per_s=20, seconds=0.5))["p99_ms"] > 0
    assert (await parts.waiting(runs=20))["held"] == 20
    assert (await parts.memory(runs=20))["s"] > 0
    assert (await parts.resumed(runs=20))["resumed"] == 20
