"""Which embedder a collection gets, and how loudly the fallback says what it is."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.knowledge.embedders import Embedders
from workers import minilm
from workers.errors import EmbedderUnavailable
from workers.lexical import Lexical
from workers.minilm import MiniLM, missing_packages


@pytest.fixture
def without_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "NEEDED", ("no_such_package",))


@pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {missing_packages()}")
async def test_auto_is_minilm_where_it_is_installed(tmp_path: Path):
    embedders = Embedders(tmp_path, 1)
    with capture_logs() as logs:
        assert isinstance(embedders.get("auto", "docs"), MiniLM)
        assert embedders.get("minilm", "other") is embedders.get("auto", "docs")
    assert logs == []
    await embedders.aclose()


async def test_auto_without_it_is_lexical_and_says_so(tmp_path: Path, without_minilm: None):
    embedders = Embedders(tmp_path, 1)
    with capture_logs() as logs:
        assert isinstance(embedders.get("auto", "docs"), Lexical)
    (line,) = logs
    assert (line["event"], line["log_level"], line["collection"]) == ("embedder_is_lexical", "warning", "docs")
    assert line["missing"] == ["no_such_package"]
    assert "pip install" in line["remedy"]
    assert "--recreate" in line["remedy"]


async def test_lexical_by_choice_is_silent(tmp_path: Path, without_minilm: None):
    with capture_logs() as logs:
        assert isinstance(Embedders(tmp_path, 1).get("lexical", "docs"), Lexical)
    assert logs == []


async def test_minilm_by_name_is_not_replaced(tmp_path: Path, without_minilm: None):
    with pytest.raises(EmbedderUnavailable, match="no_such_package"):
        Embedders(tmp_path, 1).get("minilm", "docs")
