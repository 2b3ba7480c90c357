"""`headgate workflow validate`, `graph` and `schema`."""

import json
import os
import xml.etree.ElementTree as ET

import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.operate.workflow.init import examples
from tests.process.daemon import configured

GOOD = """
name: good
steps:
  - {id: a, type: llm, route: echo, prompt: hello}
  - {id: b, type: llm, route: echo, prompt: "{{ a }}"}
  - {id: c, type: vector_search, collection: docs, query: "{{ a }}"}
"""
BAD = """name: bad
steps:
  - id: a
    type: llm
    route: nowhere
    promt: hello
  - id: b
    type: transform
    operation: template
    template: "{{ nobody }}"
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("HEADGATE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, ["workflow", *map(str, arguments)])


def written(folder, text, name="w.yaml"):
    file = folder / name
    file.write_text(text)
    return file


def test_a_good_one_is_counted(tmp_path):
    result = run("validate", written(tmp_path, GOOD))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'w.yaml'}: no problems (good@1, 3 steps in 2 levels)\n"


def test_every_fault_has_its_place_and_all_are_told(tmp_path):
    result = run("validate", written(tmp_path, BAD), written(tmp_path, GOOD, "other.yaml"))
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[-1] == f"{tmp_path / 'w.yaml'}: {len(lines) - 1} problems"
    by_line = {line.split(":")[1]: line for line in lines[:-1]}
    assert "promt" in by_line["6"]
    assert "nobody" in by_line["10"]
    assert "other.yaml: no problems" in result.stdout


def test_a_file_that_is_not_there_is_one_of_several(tmp_path):
    result = run("validate", written(tmp_path, BAD), tmp_path / "none.yaml", written(tmp_path, GOOD, "other.yaml"))
    assert result.exit_code == 2
    assert f"Error: cannot read {tmp_path / 'none.yaml'}: No such file or directory" in result.stderr
    assert "nobody" in result.stderr
    assert "other.yaml: no problems" in result.stdout
    faults = json.loads(run("validate", "--json", tmp_path / "none.yaml", tmp_path / "other.yaml").stdout)
    assert [fault["file"] for fault in faults] == [str(tmp_path / "none.yaml")]


def test_structure_and_references_are_told_together(tmp_path):
    text = BAD.replace("promt: hello", "prompt: hello").replace("type: llm", "type: lmm")
    result = run("validate", written(tmp_path, text))
    for said in ("did you mean llm?", "nowhere", "nobody"):
        assert said in result.stderr


def test_routes_and_collections_are_those_of_the_configuration(tmp_path):
    assert run("validate", written(tmp_path, GOOD.replace("echo", "mine"))).exit_code == 2
    config = configured(tmp_path, '[[workers]]\nname = "w"\nkind = "echo"\n[[routes]]\nname = "mine"\nworker = "w"\n')
    result = run("validate", tmp_path / "w.yaml", "--config", config)
    assert result.exit_code == 2
    assert "docs" in result.stderr
    assert "mine" not in result.stderr.replace(str(tmp_path), "")
    config.write_text(config.read_text() + '[[collections]]\nname = "docs"\n')
    assert run("validate", tmp_path / "w.yaml", "--config", config).exit_code == 0
    assert run("validate", tmp_path / "w.yaml", "--no-routes").exit_code == 0


def test_a_configuration_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_CONFIG", str(configured(tmp_path)))
    result = run("validate", written(tmp_path, GOOD))
    assert result.exit_code == 2
    assert "docs" in result.stderr


def test_faults_for_programs(tmp_path):
    result = run("validate", "--json", written(tmp_path, BAD))
    faults = json.loads(result.stdout)
    assert result.exit_code == 2
    assert {fault["file"] for fault in faults} == {str(tmp_path / "w.yaml")}
    assert {6, 10} <= {fault["line"] for fault in faults}
    assert json.loads(run("validate", "--json", written(tmp_path, GOOD)).stdout) == []


def test_workflows_that_it_calls_are_beside_it(tmp_path):
    written(tmp_path, GOOD, "good.yaml")
    call = "name: outer\nsteps:\n  - {id: x, type: workflow, workflow: NAME}\n"
    assert run("validate", written(tmp_path, call.replace("NAME", "good"))).exit_code == 0
    assert run("validate", written(tmp_path, call.replace("NAME", "good.yaml"))).exit_code == 0
    result = run("validate", written(tmp_path, call.replace("NAME", "missing")))
    assert (result.exit_code, "missing" in result.stderr) == (2, True)
    written(tmp_path, BAD, "good.yaml")
    result = run("validate", written(tmp_path, call.replace("NAME", "good")))
    assert (result.exit_code, "good" in result.stderr) == (2, True)


@pytest.mark.parametrize("text", [b"\xff\xfe\0", b"", b"name: [", b"[1, 2]", b"x" * (11 << 20)])
def test_what_is_no_definition(tmp_path, text):
    file = tmp_path / "w.yaml"
    file.write_bytes(text)
    result = run("validate", file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{file}:")
    assert "Traceback" not in result.output


def test_a_file_that_is_not_there(tmp_path):
    result = run("validate", "nothing.yaml")
    assert (result.exit_code, result.stderr) == (2, "Error: cannot read nothing.yaml: No such file or directory\n")


def test_graphs(tmp_path):
    file = written(tmp_path, GOOD)
    result = run("graph", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "flowchart TD"
    assert "  n0 --> n1" in result.stdout.splitlines()
    root = ET.fromstring(run("graph", file, "--format", "svg").stdout)
    assert root.find("{http://www.w3.org/2000/svg}title").text == "good"
    refused = run("graph", written(tmp_path, BAD))
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_the_schema_fits_the_examples():
    schema = json.loads(run("schema").stdout)
    validator = jsonschema_rs.validator_for(schema)
    found = examples()
    assert len(found) == 5
    for path in found.values():
        assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []
    assert not validator.is_valid({"name": "x", "steps": [{"id": "a", "type": "llm", "promt": "x"}]})
