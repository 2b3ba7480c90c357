from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.workflow.journal import Journal
from tests.conformance.journals.journals import Journals


@pytest.fixture(params=["memory", "sqlite"])
async def journals(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journals]:
    found = Journals(request.param, tmp_path)
    yield found
    await found.aclose()


@pytest.fixture
async def journal(journals: Journals) -> Journal:
    return await journals.open()
