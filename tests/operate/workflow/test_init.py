"""`headgate workflow init`."""

import pytest
from click.testing import CliRunner

from pipeline.cli import main

EXAMPLES = {"map-reduce-summary", "moderation", "parallel-rag", "refinement", "sentiment-analysis"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def init(*arguments):
    return CliRunner().invoke(main, ["workflow", "init", *arguments])


def test_a_starter_with_its_own_name(tmp_path):
    result = init("review")
    assert (result.exit_code, result.stdout) == (
        0,
        "Wrote review.yaml. Try it: headgate workflow run review.yaml\n",
    )
    text = (tmp_path / "review.yaml").read_text()
    assert "\nname: review\n" in text
    assert "headgate workflow validate review.yaml\n" in text
    assert "FILE" not in text


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path):
    file = tmp_path / "workflow.yaml"
    file.write_text("mine")
    result = init()
    assert (result.exit_code, file.read_text()) == (1, "mine")
    assert "workflow.yaml is there already: --force replaces it" in result.stderr
    assert init("--force").exit_code == 0
    assert "name: workflow" in file.read_text()


def test_examples_are_named_and_copied(tmp_path):
    listed = init("--list")
    assert {line.split()[0] for line in listed.stdout.splitlines()} == EXAMPLES
    assert list(tmp_path.iterdir()) == []
    assert init("--example", "moderation").exit_code == 0
    text = (tmp_path / "moderation.yaml").read_text()
    assert "headgate workflow run moderation.yaml --input" in text
    assert init("mine", "--example", "moderation").exit_code == 0
    mine = (tmp_path / "mine.yaml").read_text()
    assert "\nname: mine\n" in mine
    assert "headgate workflow run mine.yaml\n" in mine


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--example", "nothing"], "there is no example 'nothing' (there are: map-reduce-summary, moderation,"),
        (["../up"], "'../up' is no name"),
        ([".hidden"], "'.hidden' is no name"),
    ],
)
def test_what_cannot_be_written(tmp_path, arguments, said):
    result = init(*arguments)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert said in result.stderr
