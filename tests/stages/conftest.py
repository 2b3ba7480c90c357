import pytest

from tests.stages.pooled import Pools


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    """Workers are built as replicas that a test tells what to do."""
    return Pools(monkeypatch)
