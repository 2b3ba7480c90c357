"""What the configuration allows, and nothing else; and the log."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from config.schema import WorkflowsSection
from pipeline.adapters.outside.real import MAX_LOGGED, RealOutside
from pipeline.workflow.errors import StepFailed
from tests.adapters.outside.servers import listening
from tests.adapters.outside.test_http import hello


async def test_by_itself_nothing_is_allowed():
    outside = RealOutside(WorkflowsSection())
    with pytest.raises(StepFailed, match=r"workflows\.hosts"):
        await outside.request("GET", "http://127.0.0.1/", {}, None, None)
    with pytest.raises(StepFailed, match=r"workflows\.files_dir") as caught:
        await outside.write("a", b"x", append=False, key="k")
    assert (caught.value.kind, caught.value.retryable) == ("not_allowed", False)
    await outside.aclose()


async def test_what_is_configured(tmp_path: Path):
    async with listening(hello) as (url, _):
        section = WorkflowsSection(hosts=[url.removeprefix("http://")], files_dir=str(tmp_path), max_value_bytes=1024)
        outside = RealOutside(section)
        assert (await outside.request("GET", f"{url}/a", {}, None, None))[2] == b"GET /a"
        assert await outside.write("a", b"x", append=False, key="k") == str(tmp_path / "a")
        with pytest.raises(StepFailed) as caught:
            await outside.write("a", b"x" * 1025, append=False, key="k")
        assert caught.value.kind == "too_large"
        await outside.aclose()
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_line_in_the_log(level: str):
    with capture_logs() as lines:
        RealOutside(WorkflowsSection()).log(level, "done", {"run_id": "r", "step": "s"})
    assert lines == [{"event": "workflow_log", "log_level": level, "message": "done", "run_id": "r", "step": "s"}]


def test_long_and_odd_messages():
    with capture_logs() as lines:
        RealOutside(WorkflowsSection()).log("info", "\x1b[2J" + "x" * 100_000, {"step": "y" * 100_000, "n": 1})
    (line,) = lines
    assert len(line["message"]) == MAX_LOGGED
    assert "\x1b" not in line["message"]
    assert len(line["step"]) <= 500
    assert line["n"] == 1
