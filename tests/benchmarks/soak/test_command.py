"""The whole of it, for a few seconds."""

import json
import subprocess
import sys

import pytest

from tests.process.daemon import ROOT


@pytest.mark.slow
def test_a_few_seconds_with_kills_are_clean(tmp_path):
    file = tmp_path / "soak.json"
    options = ["--minutes", "0.1", "--seed", "4", "--trouble", "kill", "--interval", "2", "--json", str(file)]
    command = [sys.executable, "-m", "benchmarks.soak", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["problems"] == []
    assert report["counts"]["completed"] > 50
    assert {life["role"] for life in report["lives"]} == {"supervisor", "shard", "knowledge"}
    assert {event["what"] for event in report["events"]} <= {"kill"}
    assert " asked: " in done.stdout


@pytest.mark.parametrize("option", [["--minutes", "0"], ["--shards", "0"], ["--trouble", "weather"]])
def test_options_that_make_no_sense_are_refused(option):
    command = [sys.executable, "-m", "benchmarks.soak", *option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert option[0] in done.stderr
