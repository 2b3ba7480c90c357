"""`headgate workflow run` in its own process: outputs, exit statuses, going on after a kill."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from pipeline.cli import main
from tests.process.daemon import ECHO, configured

COMMAND = Path(sys.executable).parent / "headgate"
STEPS = """
name: w
inputs:
  word: {type: string, default: hello}
steps:
  - {id: a, type: llm, route: echo, prompt: "{{ inputs.word }}"}
  - {id: b, type: transform, operation: json_parse, input: "{{ a }}", on_failure: POLICY}
  - {id: c, type: llm, route: echo, prompt: "{{ a }} again"}
outputs: {c: "{{ c }}", b: "{{ b }}"}
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("HEADGATE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def run(*arguments, **options):
    return CliRunner().invoke(main, ["workflow", "run", *map(str, arguments)], **options)


def written(text, name="w.yaml"):
    Path(name).write_text(text)
    return name


def policy(name):
    return written(STEPS.replace("POLICY", name))


def test_the_outputs_are_all_that_standard_output_has():
    result = run(policy("fail"), "--input", "word=[1]")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"c": "[1] again", "b": [1]}
    lines = result.stderr.splitlines()
    assert lines[0].endswith("run running")
    assert any(line.endswith("a: completed: [1]") for line in lines)
    assert re.fullmatch(r"run run_[0-9a-f]{32} completed", lines[-1])


def test_quiet_says_nothing_else():
    result = run(policy("fail"), "--input", "word=1", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["b"] == 1


@pytest.mark.parametrize(("name", "status", "state"), [("fail", 1, "failed"), ("continue", 3, "partial")])
def test_exit_statuses_tell_the_truth(name, status, state):
    result = run(policy(name), "--json")
    view = json.loads(result.stdout)
    assert (result.exit_code, view["state"]) == (status, state)
    steps = {step["path"]: step for step in view["steps"]}
    assert steps["b"]["state"] == "failed"
    assert steps["b"]["error"]["message"]
    if state == "partial":
        assert view["outputs"] == {"c": "hello again", "b": None}


def test_a_file_of_outputs_is_whole_or_not_there(tmp_path):
    result = run(policy("fail"), "--input", "word=1", "--output", "out.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text()) == {"c": "1 again", "b": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "w.yaml"]
    for bad in ("nowhere/out.json", "."):
        refused = run(policy("fail"), "--output", bad)
        assert (refused.exit_code, "cannot write" in refused.stderr) == (2, True)
        assert "run running" not in refused.stderr


def test_inputs_of_a_file_and_over_it():
    Path("i.json").write_text('{"word": "from the file"}')
    assert json.loads(run(policy("continue"), "--input-file", "i.json").stdout)["c"] == "from the file again"
    over = run(policy("continue"), "--input-file", "i.json", "--input", "word=over")
    assert json.loads(over.stdout)["c"] == "over again"
    given = run(policy("continue"), "--input-file", "-", input="word: piped\n")
    assert json.loads(given.stdout)["c"] == "piped again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["w.yaml", "--input", "wrod=x"], "wrod"),
        (["w.yaml", "--input", "word"], "expected NAME=VALUE"),
        (["w.yaml", "--input-file", "none.json"], "cannot read none.json"),
        (["none.yaml"], "there is no file none.yaml: a workflow that is registered"),
        ([], "name a FILE"),
        (["w.yaml", "--resume", "run_1", "--journal", "j.db"], "name no FILE"),
        (["--resume", "run_1"], "--resume needs the --journal"),
        (["--resume", "run_1", "--journal", "j.db"], "there is no journal j.db"),
        (["w.yaml", "--detach"], "need a daemon"),
        (["w.yaml", "--url", "http://127.0.0.1:1", "--journal", "j.db"], "a daemon has its own journal"),
        (["bad.yaml"], "bad.yaml:3:"),
        (["unknown.yaml"], "(without --config there are the routes echo and extractive)"),
    ],
)
def test_what_is_refused_before_anything_is_spent(arguments, said):
    policy("fail")
    written("name: bad\nsteps:\n  - {id: a, type: lllm}\n", "bad.yaml")
    written("name: u\nsteps:\n  - {id: a, type: llm, route: mine, prompt: x}\n", "unknown.yaml")
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "run running" not in result.stderr
    assert "Traceback" not in result.output


def test_each_line_says_that_it_is_an_error(tmp_path):
    (tmp_path / "two.yaml").write_text(
        "name: two\ninputs: {a: {}, b: {}}\nsteps: [{id: s, type: llm, route: echo, prompt: x}]\n"
    )
    result = run("two.yaml")
    assert (result.exit_code, result.stderr) == (2, "Error: inputs.a: is missing\nError: inputs.b: is missing\n")
    (tmp_path / "two.yaml").write_text("name: two\nsteps: [{id: s, type: lmm, route: echo, prompt: x}]\n")
    result = run("two.yaml")
    assert (result.exit_code, "--config" in result.stderr) == (2, False)  # no route is concerned


def test_a_journal_in_no_folder_is_named(tmp_path):
    journal = tmp_path / "nowhere" / "runs.db"
    text = "name: w\nsteps: [{id: s, type: llm, route: echo, prompt: x}]\n"
    result = run(written(text), "--journal", journal)
    assert result.exit_code == 5
    assert result.stderr == f"Error: the journal {journal} cannot be opened: there is no folder {journal.parent}\n"


def test_routes_of_a_configuration(tmp_path):
    config = configured(tmp_path, ECHO.format(worker="").replace('"echo"\nworker', '"mine"\nworker'))
    written("name: u\nsteps:\n  - {id: a, type: llm, route: mine, prompt: x}\n")
    assert json.loads(run("w.yaml", "--config", config).stdout) == {"a": "x"}
    assert run("w.yaml", env={"HEADGATE_CONFIG": str(config)}).exit_code == 0


def test_at_most_so_many_steps_at_once(tmp_path):
    config = configured(tmp_path, worker="first_token_ms = 40")
    step = "  - {{id: s{}, type: llm, route: echo, prompt: x}}\n"
    written("name: w\nsteps:\n" + "".join(step.format(number) for number in range(3)))
    for limit, at_once in ((1, 1), (3, 3)):
        view = json.loads(run("w.yaml", "--json", "--config", config, "--max-concurrency", limit).stdout)
        assert view["state"] == "completed"
        times = [(step["started_at"], step["ended_at"]) for step in view["steps"]]
        assert max(sum(begun <= at < ended for begun, ended in times) for at, _ in times) == at_once


def test_a_run_whose_only_steps_are_waits_goes_on():
    wait = "  - {id: a, type: wait, seconds: 0.2}\n"
    written(f"name: w\nsteps:\n{wait}  - {{id: b, type: llm, route: echo, prompt: 'x{{{{ a }}}}'}}\n")
    result = run("w.yaml")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"b": "x"})
    assert "a: waits for its time" in result.stderr


def test_workflows_in_files_beside_it():
    policy("continue")
    written('name: o\nsteps:\n  - {id: x, type: workflow, workflow: w, inputs: {word: "7"}}\n', "outer.yaml")
    result = run("outer.yaml")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"x": {"c": "7 again", "b": 7}})


def started(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEADGATE")}
    return subprocess.Popen(
        [str(COMMAND), "workflow", "run", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(process, text):
    """The lines up to the first with this text."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_run_and_says_so(number):
    written("name: w\nsteps:\n  - {id: a, type: wait, event: never}\n")
    with started("w.yaml", "--json") as process:
        until(process, "a: waits for the signal 'never'")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert json.loads(out)["state"] == "cancelled"
    assert "run cancelled: interrupted" in err


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """Its collections are kept as well; a step that was done is not done again."""
    written(
        """
name: w
steps:
  - {id: store, type: vector_upsert, collection: notes, documents: {source: a.md, text: The ferry leaves at noon.}}
  - {id: pause, type: wait, seconds: 1, depends_on: [store]}
  - {id: found, type: vector_search, collection: notes, query: ferry, depends_on: [pause]}
"""
    )
    with started("w.yaml", "--journal", "j.db") as process:
        lines = until(process, "pause: waits")
        process.kill()
    (run_id,) = set(re.findall(r"run_[0-9a-f]{32}", "".join(lines)))
    assert f"headgate workflow run --journal j.db --resume {run_id}" in lines[0]
    unknown = run("--journal", "j.db", "--resume", "run_x")
    assert (unknown.exit_code, f"no run 'run_x' (its newest: {run_id})" in unknown.stderr) == (2, True)
    result = run("--journal", "j.db", "--resume", run_id, "--json")
    view = json.loads(result.stdout)
    assert (result.exit_code, view["id"], view["state"]) == (0, run_id, "completed")
    assert [hit["source"] for hit in view["outputs"]["found"]] == ["a.md"]
    steps = {step["path"]: step for step in view["steps"]}
    assert steps["store"]["attempt"] == 1
    assert steps["store"]["ended_at"] <= steps["pause"]["started_at"]
    again = run("--journal", "j.db", "--resume", run_id)
    assert (again.exit_code, json.loads(again.stdout)) == (0, view["outputs"])


@pytest.mark.slow
def test_on_a_terminal_there_is_a_tree_and_the_outputs_below(tmp_path):
    policy("continue")
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEADGATE")}
        environment |= {"COLUMNS": "100", "LINES": "30", "TERM": "xterm", "PYTHONUTF8": "1"}
        os.execve(COMMAND, [str(COMMAND), "workflow", "run", "w.yaml"], environment)
    said = b""
    with contextlib.suppress(OSError):  # how a terminal says that the other end is closed
        while data := os.read(terminal, 65_536):
            said += data
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).splitlines()]
    last = lines.index("{")
    assert [line.split()[:2] for line in lines[last - 4 : last - 1]] == [["✓", "a"], ["✗", "b"], ["✓", "c"]]
    assert lines[last - 1].split()[0] == "partial"
    assert '"c": "hello again",' in lines
