"""`docs/reference/logs.md` names every event that is logged, and none that is not."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "logs.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
# What the level of is in a variable.
OTHERS = {"workflow_log", "llama_cpp"}


@cache
def logged() -> tuple[tuple[str, str], ...]:
    """The events, each with the file that logs it."""
    return tuple(_logged())


def _logged() -> Iterator[tuple[str, str]]:
    for folder in ("config", "workers", "pipeline"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _logs(node.func):
                    event = node.args[0]
                    assert isinstance(event, ast.Constant), f"{file}: {ast.unparse(node)}"
                    yield str(event.value), str(file.relative_to(ROOT))


def _logs(called: ast.Attribute) -> bool:
    name = ast.unparse(called.value)
    return called.attr in LEVELS and re.search(r"(^|[._])log(ger)?$", name) is not None


def test_every_event_is_on_the_page():
    found = logged()
    assert len(found) > 60
    assert [(event, file) for event, file in found if f"`{event}`" not in PAGE] == []
    assert {event for event in OTHERS if f"`{event}`" not in PAGE} == set()


def test_workflows_are_among_them():
    of = {event for event, file in logged() if re.search(r"workflows?[/.]", file)}
    assert {"step_broke", "lease_lost", "journal_unavailable", "workflow_step_type_unusable"} <= of


def test_every_event_of_the_page_is_logged():
    known = {event for event, _ in logged()} | OTHERS
    rows = re.findall(r"^\| (`[^|]+`) \| (?:debug|info|warning|error|the step's)[^|]*\|", PAGE, re.MULTILINE)
    assert len(rows) > 50
    named = {event for row in rows for event in re.findall(r"`([^`]+)`", row)}
    assert named - known == set()
