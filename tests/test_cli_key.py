"""`headgate key new` and `headgate key hash`."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from config.load import load
from pipeline.cli import main
from pipeline.policy.access import key_hash

ROUTES = '[[workers]]\nname = "w"\nkind = "echo"\n[[routes]]\nname = "docs/qa"\nworker = "w"\n'
COMMAND = Path(sys.executable).parent / "headgate"


def run(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["key", *arguments], input=given, catch_exceptions=False)


def test_standard_output_is_the_key_alone():
    result = run("new", "mobile-app")
    assert result.exit_code == 0
    assert re.fullmatch(r"hg_[A-Za-z0-9_-]{43}\n", result.stdout)
    assert result.stdout.strip() not in result.stderr
    assert result.stdout != run("new", "mobile-app").stdout


def test_what_it_says_to_add_is_what_a_configuration_takes(tmp_path):
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "90000", "--concurrency", "4", "--weight", "2.5"]
    result = run("new", "mobile-app", "--class", "high", "--route", "docs/qa", *limits)
    section = result.stderr[result.stderr.index("[[keys]]") :]
    (tmp_path / "pipeline.toml").write_text(ROUTES + section)
    (key,) = load(tmp_path / "pipeline.toml", {}).config.keys
    assert (key.name, key.hash, key.class_) == ("mobile-app", key_hash(result.stdout.strip()), "high")
    assert (key.routes, key.weight, key.revoked) == (["docs/qa"], 2.5, False)
    assert (key.requests_per_minute, key.tokens_per_minute, key.concurrency) == (60, 90_000, 4)


def test_as_json_for_programs():
    result = run("new", "ci", "--json", "--concurrency", "2")
    made = json.loads(result.stdout)
    assert made["section"] == {"name": "ci", "hash": key_hash(made["key"]), "concurrency": 2}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a b"], 'name: found "a b", expected a name of at most 128'),
        ([""], 'name: found "", expected a name'),
        (["x", "--requests-per-minute", "0"], "requests_per_minute: found 0, expected a whole number from 1"),
        (["x", "--tokens-per-minute", "-1"], "tokens_per_minute: found -1, expected a whole number from 16"),
        (["x", "--concurrency", "1.5"], "'1.5' is not a valid integer"),
        (["x", "--weight", "nan"], "weight: found nan, expected a number from 0.01"),
        (["x", "--route", "\n"], 'routes[0]: found "\\n", expected a name'),
        (["x", "--class", "urgent"], "'urgent' is not one of"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_what_a_configuration_would_refuse_is_refused_and_no_key_made(arguments, told):
    result = run("new", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""


def test_the_hash_of_a_key_made_elsewhere():
    key = "sk-another-system's-key-1234567890"
    assert run("hash", given=f"{key}\r\n").stdout == key_hash(key) + "\n"
    made = run("new", "x", "--json").stdout
    assert run("hash", given=json.loads(made)["key"]).stdout.strip() == json.loads(made)["section"]["hash"]


@pytest.mark.parametrize(
    "given", ["", "\n", "two words are not a key at all", "schlüssel" * 3, "k" * 513, "short", b"\x00"]
)
def test_what_is_no_key_has_no_hash(given):
    result = run("hash", given=given)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "a key " in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("environ", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_at_a_terminal_the_two_parts_have_titles(environ, bold):
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | environ
    subprocess.run([COMMAND, "key", "new", "x"], stdout=theirs, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert ("\x1b[1m" in shown) is bold
    assert shown.index("shown this once") < shown.index("hg_") < shown.index("What to add") < shown.index("[[keys]]")
