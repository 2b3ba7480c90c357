"""What pages about workflows say: the README's example runs, a backup can be gone back to, states are those of the
source, links lead somewhere."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pipeline.workflow.client import WorkflowClient
from pipeline.workflow.states import NEXT, RunState
from tests.e2e.page import ROOT, blocks
from tests.process.daemon import configured, serving

README = ROOT / "README.md"
PRODUCTION = ROOT / "docs" / "how-to" / "workflows-in-production.md"
DISCUSSION = ROOT / "docs" / "discussion" / "workflows.md"
PAGES = [
    README,
    PRODUCTION,
    DISCUSSION,
    *(ROOT / "docs" / name for name in ("how-to/write-a-step.md", "tutorial/workflows.md", "reference/logs.md")),
    *sorted((ROOT / "docs" / "reference").glob("workflow*.md")),
]
WAITS = {
    "name": "waits",
    "steps": [
        {"id": "first", "type": "transform", "operation": "template", "template": "done"},
        {"id": "then", "type": "wait", "event": "go", "depends_on": ["first"]},
    ],
}


def section(page: str, title: str) -> str:
    return re.split(r"^#+ ", page.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path: Path):
    (example,) = [block.text for block in blocks(section(README.read_text(), "Workflows")) if block.language == "yaml"]
    (tmp_path / "briefing.yaml").write_text(example)
    command = [Path(sys.executable).parent / "headgate", "workflow", "run", "briefing.yaml", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = "Make one briefing of this: Three facts about ferries. Three facts about night trains."
    assert msgspec.json.decode(done.stdout) == {"briefing": said}


@pytest.mark.parametrize("page", [README, PRODUCTION, DISCUSSION], ids=lambda page: page.stem)
def test_the_tests_that_pages_name_are_there(page: Path):
    named = re.findall(r"\btests/[\w/]+\.py", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_states_are_those_of_the_source():
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", section(DISCUSSION.read_text(), "States"), re.MULTILINE)
    told = {state: set(re.findall(r"\w+", following)) for state, following in rows}
    real = {state.value: {following.value for following in NEXT[state]} for state in RunState}
    real["running"].add("running")  # said again by who takes a run up after a crash
    assert told == real


def test_the_metrics_that_are_named_are_there():
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    named = set(re.findall(r"headgate_workflow_\w+", PRODUCTION.read_text()))
    assert len(named) > 5
    assert [name for name in named if f"`{name}`" not in reference] == []


def test_the_keys_that_are_named_are_there():
    reference = section((ROOT / "docs" / "reference" / "configuration.md").read_text(), "`[workflows]`")
    named = re.findall(r"`(\w+_\w+)`", section(PRODUCTION.read_text(), "Limits"))
    others = {"timeout_seconds", "too_large"}
    assert [name for name in named if f"| `{name}` |" not in reference and name not in others] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    for address, _, anchor in re.findall(r"\]\(((?!https?:)[^)#]*)(#([^)]*))?\)", page.read_text()):
        file = page.parent / address if address else page
        assert file.exists(), address
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{address}#{anchor}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.slow
async def test_a_backup_is_gone_back_to(tmp_path: Path):
    """As the page says, while the daemon runs; then with what came after it gone."""
    path = configured(tmp_path)
    async with serving(path) as daemon, WorkflowClient(daemon.address) as client:
        run = await client.start(WAITS)
        await until(client, run.id, RunState.WAITING)
        bash(section(PRODUCTION.read_text(), "Back it up"), tmp_path)
        later = await client.start(WAITS)
        await until(client, later.id, RunState.WAITING)
    bash(section(PRODUCTION.read_text(), "Go back"), tmp_path)
    async with serving(path) as daemon, WorkflowClient(daemon.address) as client:
        assert [one.id async for one in client.runs()] == [run.id]
        await client.signal(run.id, "go", "now")
        ended = await client.wait(run.id, 10)
    assert (ended.state, ended.outputs) == (RunState.COMPLETED, {"then": "now"})
    assert [(step.path, step.attempt) for step in ended.steps] == [("first", 1), ("then", 1)]


async def until(client: WorkflowClient, run_id: str, state: RunState) -> None:
    async with asyncio.timeout(10):
        while (await client.run(run_id)).state is not state:
            await asyncio.sleep(0.02)


def bash(part: str, folder: Path) -> None:
    """Types what is to be typed; the tests' data folder has another name."""
    (typed,) = [block.text for block in blocks(part) if block.language == "sh"]
    subprocess.run(["bash", "-ec", typed.replace(".headgate/", "data/")], cwd=folder, timeout=20, check=True)
