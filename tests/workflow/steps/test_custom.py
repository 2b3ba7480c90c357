"""Types of steps from installed packages: the real machinery of entry points, over packages made here."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.workflow.checking import check
from pipeline.workflow.definition import CustomStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Kind, Result
from pipeline.workflow.source import read
from pipeline.workflow.steps import handlers
from pipeline.workflow.steps.custom import BUILT_IN, custom_kinds
from tests.workflow.steps.context import Context

MODULE = """
from pipeline.workflow.ports import Kind, Result

async def shout(step, context):
    return Result(context.value("options.text").upper(), {"metadata": {"step": step.id}})

shouting = Kind(shout, {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}})
broken_schema = Kind(shout, {"$ref": "http://127.0.0.1:1/"})
not_a_kind = shout
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, in which packages can be put."""
    (tmp_path / "wf_shouting.py").write_text(MODULE)
    (tmp_path / "wf_raising.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("wf_shouting", "wf_raising"):
        sys.modules.pop(name, None)


def package(folder: Path, name: str, **points: str) -> None:
    """Its entry points, as an installer would leave them."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{point} = {value}\n" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[headgate.steps]\n{lines}")


async def run(kind: Kind, **options: Any) -> Result:
    step = CustomStep(id="s", type="shout", options=dict.fromkeys(options, "{{ x }}"))
    filled = {f"options.{name}": value for name, value in options.items()}
    return await kind.handler(step, Context(step, filled=filled))


async def test_a_type_of_another_package(installed: Path):
    package(installed, "shouting", shout="wf_shouting:shouting")
    kind = custom_kinds()["shout"]
    assert isinstance(kind.options, dict)
    assert kind.options["required"] == ["text"]
    result = await run(kind, text="hello")
    assert (result.value, result.fields) == ("HELLO", {"metadata": {"step": "s"}})


async def test_options_are_checked_once_they_are_filled_in(installed: Path):
    package(installed, "shouting", shout="wf_shouting:shouting")
    kind = custom_kinds()["shout"]
    with pytest.raises(StepFailed, match=r"options.text: .* \(got 5\)") as caught:
        await run(kind, text=5)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_input", False)
    with pytest.raises(StepFailed, match=r"options: .*required"):
        await run(kind)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("wf_missing:kind", "ModuleNotFoundError"),
        ("wf_raising:kind", "RuntimeError: no licence"),
        ("wf_shouting:nothing", "AttributeError"),
        ("wf_shouting:not_a_kind", "it is a function, not a pipeline.workflow.ports.Kind"),
        ("wf_shouting:broken_schema", "its options: only references within"),
    ],
)
async def test_one_that_is_broken_keeps_nobody_from_starting(installed: Path, value: str, reason: str):
    package(installed, "mixed", bad=value, shout="wf_shouting:shouting")
    with capture_logs() as lines:
        kinds = custom_kinds()
        assert lines == []  # nobody has asked for it
        with pytest.raises(StepFailed) as caught:
            await run(kinds["bad"])
        with pytest.raises(StepFailed):
            await run(kinds["bad"])
    (line,) = lines
    assert (line["event"], line["log_level"], line["type"]) == ("workflow_step_type_unusable", "warning", "bad")
    assert reason in line["reason"]
    assert reason in kinds["bad"].problem
    assert kinds["shout"].problem == ""
    assert (caught.value.kind, caught.value.retryable) == ("unusable_type", False)
    assert reason in caught.value.message
    assert (await run(kinds["shout"], text="a")).value == "A"


async def test_names_that_are_taken(installed: Path):
    package(
        installed, "one", llm="wf_shouting:shouting", shout="wf_shouting:shouting", **{"9x": "wf_shouting:shouting"}
    )
    package(installed, "two", shout="wf_shouting:shouting")
    with capture_logs() as lines:
        kinds = custom_kinds()
    assert set(kinds) == {"shout"}
    assert {line["type"] for line in lines if line["event"] == "workflow_step_type_refused"} == {"llm", "9x"}
    with pytest.raises(StepFailed, match="several packages"):
        await run(kinds["shout"], text="a")


def test_every_built_in_type_is_known():
    assert {"llm", "wait", "map", "workflow"} <= BUILT_IN
    assert set(handlers()) < BUILT_IN
    assert all(callable(handler) for handler in handlers().values())


def test_a_broken_type_is_a_fault_of_what_uses_it_only(installed: Path):
    package(installed, "mixed", bad="wf_missing:kind", shout="wf_shouting:shouting")
    step = "name: x\nsteps:\n  - {{id: a, type: {}, options: {{text: hi}}}}\n"
    with capture_logs() as lines:
        kinds = custom_kinds()
        assert check(read(step.format("shout"), kinds=kinds), kinds=kinds) == []
        (fault,) = check(read(step.format("bad"), kinds=kinds), kinds=kinds)
    assert lines == []
    assert (fault.where, fault.line) == ("steps.a.type", 3)
    assert "'bad' (wf_missing:kind) cannot be used: ModuleNotFoundError" in fault.message
