"""`headgate ingest` as it is run: a process, its output, its exit status."""

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.knowledge import command
from pipeline.knowledge.command import ingest, summary
from pipeline.knowledge.ingest import IngestReport

pytestmark = pytest.mark.slow

CONFIG = """
[server]
data_dir = "data"
[[workers]]
name = "echo"
kind = "echo"
[[routes]]
name = "r"
worker = "echo"
"""
DOCS = '[[collections]]\nname = "docs"\nembedder = "lexical"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADGATE_CONFIG", raising=False)
    Path("pipeline.toml").write_text(CONFIG + DOCS)
    Path("texts").mkdir()
    for i in range(3):
        Path(f"texts/{i}.md").write_text(f"# Title {i}\n\ntext {i}")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(ingest, arguments)


def test_it_says_what_it_did():
    result = run("texts", "--collection", "docs")
    assert result.exit_code == 0
    assert result.stdout.startswith("docs: 3 added, 0 updated, 0 unchanged, 0 deleted; 3 chunks stored in ")
    assert result.stdout.endswith(", 3 in the collection\n")
    assert result.stderr == ""
    assert "0 added, 0 updated, 3 unchanged" in run("texts").stdout  # the one collection there is


def test_unreadable_files_are_listed_at_the_end_and_make_the_status_1():
    Path("texts/broken.txt").write_bytes(b"\x00")
    Path("texts/latin.md").write_bytes(b"caf\xe9")
    result = run("texts", "pipeline.toml")
    assert result.exit_code == 1
    assert result.stdout.startswith("docs: 3 added")
    assert result.stderr.splitlines() == [
        "could not be read: pipeline.toml: not one of .md, .txt, .html",
        "could not be read: texts/broken.txt: not a text file (it holds zero bytes)",
        "could not be read: texts/latin.md: not UTF-8 (byte 3)",
    ]


def test_quiet_prints_only_what_went_wrong():
    Path("texts/latin.md").write_bytes(b"caf\xe9")
    result = run("texts", "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "could not be read: texts/latin.md: not UTF-8 (byte 3)\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "name the files and folders to ingest"),
        (("gone",), 1, "gone does not exist"),
        (("texts", "--collection", "x"), 1, "no collection 'x' is configured (there are: docs)"),
        (("texts", "--sample"), 2, "name no PATH"),
        (("--sample", "--collection", "docs"), 2, "name no PATH"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(arguments: tuple[str, ...], status: int, message: str):
    result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_the_collection_must_be_named_unless_there_is_one():
    Path("pipeline.toml").write_text(CONFIG + DOCS + DOCS.replace("docs", "other"))
    result = run("texts")
    assert result.exit_code == 2
    assert "--collection (docs, other)" in result.stderr
    Path("pipeline.toml").write_text(CONFIG)
    assert "none is configured" in run("texts").stderr


def test_recreate_and_keep_vanished():
    run("texts")
    Path("texts/0.md").unlink()
    assert "0 added, 0 updated, 2 unchanged, 0 deleted" in run("texts", "--keep-vanished").stdout
    assert "2 added, 0 updated, 0 unchanged, 0 deleted" in run("texts", "--recreate").stdout


def test_an_unusable_data_folder_is_one_clear_line(capfd: pytest.CaptureFixture[str]):
    Path("data").write_text("a file")
    result = run("texts")
    assert result.exit_code == 1
    assert "could not be started" in result.stderr
    assert "Traceback" not in capfd.readouterr().err


def test_sample_loads_the_documentation_once(monkeypatch: pytest.MonkeyPatch, here: Path):
    repository = here / "clone"
    (repository / "docs").mkdir(parents=True)
    (repository / "README.md").write_text("# Headgate")
    (repository / "docs" / "a.md").write_text("text")
    monkeypatch.setattr(command, "REPOSITORY", repository)
    assert "docs: 2 added" in run("--sample").stdout
    assert "docs: 0 added, 0 updated, 2 unchanged" in run("--sample").stdout
    (repository / "docs" / "b.md").write_text("new")
    (repository / "docs" / "a.md").unlink()
    assert "docs: 1 added, 0 updated, 1 unchanged, 1 deleted" in run("--sample").stdout
    run("texts")
    assert run("--sample").stdout == "docs: holds other documents, left as it is\n"


def test_sample_without_the_collection_does_nothing(here: Path):
    Path("pipeline.toml").write_text(CONFIG)
    result = run("--sample")
    assert (result.exit_code, result.output) == (0, "")
    assert not Path("data").exists()


def test_sample_outside_a_clone_says_so(monkeypatch: pytest.MonkeyPatch, here: Path):
    monkeypatch.setattr(command, "REPOSITORY", here / "nothing")
    result = run("--sample")
    assert result.exit_code == 1
    assert "needs a clone" in result.stderr


def test_the_repository_has_its_sample():
    assert (command.REPOSITORY / "README.md").is_file()
    assert (command.REPOSITORY / "docs").is_dir()


def test_summary_mentions_what_is_out_of_the_ordinary_only():
    report = IngestReport(added=2, chunks=10, total_chunks=12, seconds=2.0, empty=["a.md"])
    assert summary(report, "docs") == (
        "docs: 2 added, 0 updated, 0 unchanged, 0 deleted, 1 without text; 10 chunks stored in 2.0 s (5/s), "
        "12 in the collection"
    )


@pytest.mark.alone  # the interrupt has to come in time
def test_at_a_terminal_it_shows_progress_and_an_interrupt_is_honest(here: Path):
    """A real terminal, a real interrupt from its keyboard; run again, it completes."""
    for i in range(400):
        Path(f"texts/more{i}.md").write_text(f"# Title {i}\n\n" + "text " * 1000)
    code = "from pipeline.knowledge.command import ingest; ingest()"
    primary, secondary = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code, "texts"],
        stdin=secondary,
        stdout=subprocess.PIPE,
        stderr=secondary,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(secondary)
    shown = bytearray()
    seen = threading.Event()

    def read() -> None:
        try:
            while data := os.read(primary, 65536):
                shown.extend(data)
                if b"chunks/s" in shown and b"%" in shown and b" 2" in shown:
                    seen.set()
        except OSError:
            pass  # the terminal's other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(30)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(30) == 130
    reader.join()
    os.close(primary)
    assert child.stdout is not None
    with child.stdout as stdout:
        assert stdout.read() == b""
    text = shown.decode()
    assert "of 403 documents done" in text
    assert "Interrupted" in text
    assert "Traceback" not in text
    assert not Path("data/knowledge.sock").exists()
    Path("texts/0.md").unlink()
    result = run("texts")
    assert result.exit_code == 0
    assert result.stdout.split(";")[0] != "docs: 402 added, 0 updated, 0 unchanged, 0 deleted"
    assert ", 1 deleted" in result.stdout


def test_a_worker_embeds_what_is_ingested():
    docs = DOCS.replace('"lexical"', '"echo"\ndimension = 64\ntimeout_ms = 30000')
    Path("pipeline.toml").write_text(CONFIG + docs)
    made = run("texts")
    assert made.stdout.startswith("docs: 3 added"), made.stderr
    Path("pipeline.toml").write_text(CONFIG + docs.replace("= 64", "= 65"))
    result = run("texts")
    assert result.exit_code == 1
    assert "echo.echo.64" in result.stderr


def test_a_worker_whose_key_is_not_there_is_told_by_its_key():
    worker = '[[workers]]\nname = "far"\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    worker += 'api_key = "env:NO_SUCH"\n'
    Path("pipeline.toml").write_text(CONFIG + worker + DOCS.replace('"lexical"', '"far"\ndimension = 64'))
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "ingest", "texts"],
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode != 0
    assert "workers[1].api_key" in result.stderr
    assert "Traceback" not in result.stderr
