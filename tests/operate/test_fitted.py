"""Tables whatever is in them."""

import io

import pytest
from rich.console import Console

from pipeline.operate.fitted import Fitted, Kind, Shown


@pytest.mark.parametrize("width", [80, 20])
@pytest.mark.parametrize("cells", [("draft", ""), ("draft", "  ")])
def test_a_column_of_words_may_have_none(width, cells):
    table = Fitted(Shown("step", Kind.NAME), Shown("", Kind.WORDS))
    table.add(*cells)
    console = Console(width=width, file=(out := io.StringIO()))
    console.print(table)
    assert "draft" in out.getvalue()
