"""The examples, each through the real command in a process of its own: no daemon, no key, no configuration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from pipeline.cli import main

COMMAND = Path(sys.executable).parent / "headgate"
FOLDER = Path(__file__).parents[2] / "examples" / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

pytestmark = pytest.mark.slow


def command(name: str, *arguments: str) -> list[str]:
    return ["workflow", "run", str(FOLDER / f"{name}.yaml"), "--json", *arguments]


def run(folder: Path, name: str) -> tuple[dict, dict]:
    """The outputs and, by path, the steps of a completed run."""
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith("HEADGATE")}
    done = subprocess.run(
        [COMMAND, *command(name)], cwd=folder, env=environment, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
    return told(done.stdout)


def other(name: str, *arguments: str) -> tuple[dict, dict]:
    """The same with other inputs, in this process."""
    logging = structlog.get_config()
    try:
        result = CliRunner().invoke(main, command(name, *arguments), catch_exceptions=False)
    finally:
        structlog.configure(**logging)
    assert result.exit_code == 0, result.output
    return told(result.stdout)


def told(text: str) -> tuple[dict, dict]:
    view = json.loads(text)
    assert view["state"] == "completed"
    return view["outputs"], {step["path"]: step for step in view["steps"]}


def states(steps, *names):
    return [steps[name]["state"] for name in names]


def test_these_are_all_and_each_is_tested():
    assert [f"test_{name.replace('-', '_')}" for name in NAMES] == [
        "test_map_reduce_summary",
        "test_moderation",
        "test_parallel_rag",
        "test_refinement",
        "test_sentiment_analysis",
    ]
    assert all(f"test_{name.replace('-', '_')}" in globals() for name in NAMES)


def test_sentiment_analysis(tmp_path):
    bad, steps = run(tmp_path, "sentiment-analysis")
    good, others = other("sentiment-analysis", "--input", "review=It is perfect and I love it.")
    assert bad["label"] == "negative"
    assert bad["reason"] == "by its words: great, late, broken, useless"
    assert bad["reply"].startswith("We are sorry")
    assert states(steps, "apology", "thanks", "question") == ["completed", "skipped", "skipped"]
    assert steps["sentiment"]["fallback"]
    assert steps["sentiment"]["error"] is not None
    assert (good["label"], good["reply"].startswith("Thank you for your kind words")) == ("positive", True)
    assert states(others, "apology", "thanks", "question") == ["skipped", "completed", "skipped"]


def test_parallel_rag(tmp_path):
    outputs, steps = run(tmp_path, "parallel-rag")
    assert outputs["answer"].startswith("[1] ")
    assert "five working days" in outputs["answer"]
    assert "Question:" not in outputs["answer"]
    assert [citation["number"] for citation in outputs["citations"]] == [1, 2, 3]
    sources = [citation["source"] for citation in outputs["citations"]]
    assert "handbook/refunds.md" in sources
    assert "ticket/4711" in sources
    both = [steps["search/handbook"], steps["search/tickets"]]
    assert max(step["started_at"] for step in both) <= min(step["ended_at"] for step in both)


def test_moderation(tmp_path):
    name = "moderation"
    found = [
        run(tmp_path, name),
        other(name, "--input", "post=Call me on +44 20 7946 0018."),
        other(name, "--input", "post=The pier opens at noon."),
    ]
    assert [outputs["decision"] for outputs, _ in found] == ["rejected", "held", "published"]
    assert [outputs["risk"] for outputs, _ in found] == [0.9, 0.5, 0]
    ways = [states(steps, "rejected", "held", "published") for _, steps in found]
    assert ways == [
        ["completed", "skipped", "skipped"],
        ["skipped", "completed", "skipped"],
        ["skipped", "skipped", "completed"],
    ]
    assert all(states(steps, "note", "record") == ["completed", "completed"] for _, steps in found)
    assert found[2][0]["note"] == "The post is published."


def test_refinement(tmp_path):
    outputs, steps = run(tmp_path, "refinement")
    assert outputs["iterations"] == 3  # one point was there from the beginning
    assert outputs["still_missing"] == []
    lines = outputs["text"].splitlines()
    assert lines[0] == "The harbour festival begins on Friday at noon."
    assert lines[1:] == ["free entry", "a ferry every forty minutes", "fireworks at ten"]
    assert states(steps, "improve[0]/rewrite", "improve[1]/check", "improve[2]/check") == ["completed"] * 3
    assert "improve[3]/rewrite" not in steps


def test_map_reduce_summary(tmp_path):
    given = tmp_path / "inputs.json"
    text = " ".join(f"Part {number} begins here. It goes on{' and on' * 20}." for number in range(1, 4))
    given.write_text(json.dumps({"text": text}))
    outputs, steps = run(tmp_path, "map-reduce-summary")
    longer, _ = other("map-reduce-summary", "--input-file", str(given))
    lines = outputs["summary"].splitlines()
    assert outputs["pieces"] == len(lines) >= 3
    assert all(line.startswith("- ") and line.endswith(".") for line in lines)
    assert lines[0] == "- The lighthouse on the cape was built in 1871."
    assert [steps[f"summaries[{number}]/summary"]["value"] in line for number, line in enumerate(lines)] == [
        True
    ] * len(lines)
    assert longer["summary"].startswith("- Part 1 begins here.")
